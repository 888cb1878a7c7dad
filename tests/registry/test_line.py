"""The release line through deletions, hands in MLflow, kills between two moves, two at once, lost files and a copy.

Every test works in a copy of one workspace, made once: models:/troupe/2 is champion, models:/troupe/1 previous, and a
third model, better than both, is the registered candidate.
"""

import json
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from pipelines import publish
from pipelines.workspace import claim
from tests.evaluation.test_report import evaluation
from tests.forked import forked
from tests.registry.conftest import _evaluated, write_model
from troupe import layout
from troupe.errors import RegistryError
from troupe.files import read_json, write_json
from troupe.params import PromoteParams
from troupe.registry import card, fetch, history, line
from troupe.registry.registration import register
from troupe.registry.release import Decision, promote, rollback
from troupe.tracking.connection import connection, experiment

RULE = PromoteParams(bpb_margin=0.01, confidence=0.95)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Path:
    folder = tmp_path_factory.mktemp("line") / "made here"
    folder.mkdir()
    shutil.copy(empty_store, folder / "mlflow.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        for seed, accuracy in ((1, 0.8), (2, 0.7)):
            register("adversarial", _evaluated(seed, accuracy=accuracy))
            promote(RULE)
        register("adversarial", _evaluated(3, accuracy=0.55))
    return folder


@pytest.fixture
def copied(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "copied here"
    shutil.copytree(made, folder)
    monkeypatch.chdir(folder)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return folder


@pytest.fixture
def client(copied: Path) -> Iterator[MlflowClient]:
    with connection() as client:
        yield client


def aliases() -> tuple[str | None, str | None]:
    """The numbers of champion and previous."""
    with connection() as client:
        found = line.read(client).aliases
    return found.champion, found.previous


def numbers() -> list[str]:
    with connection() as client:
        return list(line.read(client).versions)


def actions() -> list[str]:
    return [entry.action for entry in history.entries()]


def measured(bpb: float = 1.5, accuracy: float = 0.8) -> None:
    """Let the report say this of the candidate; 1.5 bits and 0.8 are the first champion's figures."""
    report = read_json(Path("reports/metrics.json"))
    judge = {"accuracy": accuracy, "correct": round(2000 * accuracy), "n": 2000, "standard_error": 0.02}
    report["models"]["adversarial"]["test"] = {"bpb": bpb, "judge": judge}
    write_json(Path("reports/metrics.json"), report)


def own(seed: int) -> None:
    """Let the candidate be the model of this seed, with its own report."""
    register("adversarial", _evaluated(seed, accuracy={1: 0.8, 2: 0.7, 3: 0.55}[seed]))


# a champion that is gone


@pytest.mark.fault("the champion deleted: a worse candidate does not take its place")
def test_a_worse_candidate_does_not_take_the_place_of_a_deleted_champion(client: MlflowClient) -> None:
    measured(bpb=2.66)
    assert promote(RULE).verdict.outcome == "refused"
    client.delete_model_version("troupe", "2")
    decision = promote(RULE)
    assert decision.verdict.outcome == "refused"
    (reason,) = decision.verdict.reasons
    assert "`troupe rollback` makes models:/troupe/1 champion again" in reason
    assert "`troupe promote --fresh` makes this candidate (models:/troupe-adversarial/3) champion" in reason
    assert aliases() == (None, "1")
    assert (actions()[-2:], history.entries()[-2].reasons) == (
        ["deleted", "refused"],
        ("models:/troupe/2 was deleted",),
    )
    promote(RULE)
    assert actions()[-2:] == ["deleted", "refused"], "nothing new, no further line"

    now, before = rollback()
    assert (now.number, before) == ("1", None)
    assert aliases() == ("1", None)
    assert "worse by more than 0.01" in promote(RULE).verdict.reasons[0]


def test_fresh_fills_the_place_of_a_deleted_champion(client: MlflowClient) -> None:
    client.delete_model_version("troupe", "2")
    assert promote(RULE, fresh=True).verdict.outcome == "promoted"
    assert aliases() == ("3", "1")


def test_a_line_with_nothing_left_is_still_no_new_one(client: MlflowClient) -> None:
    client.delete_model_version("troupe", "2")
    client.delete_model_version("troupe", "1")
    (reason,) = promote(RULE).verdict.reasons
    assert "there is no version to roll back to; `troupe promote --fresh`" in reason
    with pytest.raises(RegistryError, match="the release line has no version"):
        rollback()
    assert promote(RULE, fresh=True).verdict.outcome == "promoted"
    with pytest.raises(RegistryError, match="models:/troupe/3 is the only version of the release line that is left"):
        rollback()


def test_fresh_on_the_champions_own_weights_changes_nothing(copied: Path) -> None:
    own(2)
    before = Path(".troupe/history.jsonl").read_bytes()
    assert promote(RULE, fresh=True).verdict.outcome == "unchanged"
    assert (numbers(), aliases()) == (["1", "2"], ("2", "1"))
    assert Path(".troupe/history.jsonl").read_bytes() == before


# a person in MLflow


@pytest.mark.fault("the champion moved by hand: recorded, to be beaten, undone by rollback")
def test_a_champion_set_by_hand_is_recorded_and_the_one_to_beat_and_undone(client: MlflowClient) -> None:
    measured(accuracy=0.7)  # no better than the champion, better than the one before
    assert promote(RULE).verdict.outcome == "refused"
    client.set_registered_model_alias("troupe", "champion", "1")
    measured(accuracy=0.78)
    decision = promote(RULE)
    assert decision.champion
    assert (decision.verdict.outcome, decision.champion.number) == ("refused", "1")
    assert "0.780 against the champion's 0.800" in decision.verdict.reasons[0]
    assert decision.notes == ("moved by hand, by a person, in MLflow: champion was set to models:/troupe/1",)
    moved = next(entry for entry in history.entries() if entry.action == "moved by hand")
    assert (moved.before, moved.after) == ("models:/troupe/2", "models:/troupe/1")
    assert aliases() == ("1", "2")
    now, before = rollback()
    assert before
    assert (now.number, before.number) == ("2", "1")

    client.set_registered_model_alias("troupe", "champion", "1")
    measured(accuracy=0.7)
    assert promote(RULE).verdict.outcome == "promoted", "it beats the one that the person has chosen"
    assert aliases() == ("3", "1")


def test_rollback_undoes_a_hand_without_a_run_between(client: MlflowClient) -> None:
    client.set_registered_model_alias("troupe", "champion", "1")
    rollback()
    assert aliases() == ("2", "1")
    assert actions()[-2:] == ["moved by hand", "rolled back"]


@pytest.mark.fault("a model that was rolled back: not promoted again by itself, however long ago")
def test_a_rolled_back_model_stays_refused_when_it_is_previous_no_more(client: MlflowClient) -> None:
    rollback()
    assert promote(RULE).verdict.outcome == "promoted"
    assert aliases() == ("3", "1")
    own(2)
    measured(bpb=1.0, accuracy=0.5)  # better than any
    decision = promote(RULE)
    assert decision.verdict.outcome == "refused"
    assert "models:/troupe/2, was put out of service on " in decision.verdict.reasons[0]
    assert promote(RULE, fresh=True).verdict.outcome == "promoted"
    own(3)
    measured(bpb=0.9, accuracy=0.5)
    assert promote(RULE).verdict.outcome == "refused", "previous, as before"
    client.delete_registered_model_alias("troupe", "previous")
    assert promote(RULE).verdict.outcome == "promoted", "replaced by a better one, which nobody decided for good"


def test_both_aliases_set_by_hand_stay_and_are_undone(client: MlflowClient) -> None:
    client.set_registered_model_alias("troupe", "champion", "1")
    client.set_registered_model_alias("troupe", "previous", "2")
    rollback()
    assert aliases() == ("2", "1")


def test_a_champion_alias_that_is_removed_leaves_none_and_comes_back(client: MlflowClient) -> None:
    client.delete_registered_model_alias("troupe", "champion")
    (reason,) = promote(RULE).verdict.reasons
    assert "`troupe rollback` makes models:/troupe/2 champion again" in reason
    assert history.entries()[-2].reasons == ("champion was removed",)
    now, _ = rollback()
    assert now.number == "2"


def test_without_previous_there_is_still_a_way_back(client: MlflowClient) -> None:
    client.delete_registered_model_alias("troupe", "previous")
    rollback()
    assert aliases() == ("1", "2")


def test_aliases_of_a_store_without_a_record_are_taken_as_they_are(client: MlflowClient) -> None:
    client.delete_registered_model_tag("troupe", line.TAG)
    measured(bpb=2.0)
    promote(RULE)
    assert (actions()[-2:], aliases()) == (["adopted", "refused"], ("2", "1"))
    client.set_registered_model_tag("troupe", line.TAG, "{edited")
    promote(RULE)
    assert actions()[-1] == "adopted"


# kills, and two at once


def killed_before_write(number: int, body: Callable[[], object]) -> None:
    """Run it in a process that SIGKILL ends before its so-many-th write to the registered model."""

    def run() -> None:
        left = number
        for name in ("set_registered_model_tag", "set_registered_model_alias"):
            original = getattr(MlflowClient, name)

            def write(*words: Any, original: Callable[..., Any] = original, **more: Any) -> Any:
                nonlocal left
                left -= 1
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return original(*words, **more)

            setattr(MlflowClient, name, write)
        body()

    process = forked(run)
    process.join()
    assert process.exitcode == -signal.SIGKILL


KILLS = pytest.mark.parametrize("write", [1, 2, 3, 4], ids=["the change", "previous", "champion", "settled"])


@pytest.mark.fault("kill -9 in a promotion: the next completes it")
@pytest.mark.slow
@KILLS
def test_the_next_completes_a_promotion_killed_before(write: int, copied: Path) -> None:
    """One version, both aliases, one entry in the file and one in the tags."""
    killed_before_write(write, lambda: promote(RULE))
    assert promote(RULE).verdict.outcome == ("promoted" if write == 1 else "unchanged")
    assert (numbers(), aliases()) == (["1", "2", "3"], ("3", "2"))
    assert actions() == ["promoted"] * 3
    with connection() as client:
        tags = client.get_model_version("troupe", "3").tags
    assert sum(key.startswith(history.TAG) for key in tags) == 1


@pytest.mark.fault("kill -9 in a rollback: the next completes it")
@pytest.mark.slow
@KILLS
def test_the_next_completes_a_rollback_killed_before(write: int, copied: Path) -> None:
    killed_before_write(write, rollback)
    rollback()
    assert aliases() == ("1", "2")
    assert actions() == ["promoted", "promoted", "rolled back"]


@pytest.mark.slow
def test_the_next_completes_the_first_promotion_ever_killed_before_the_change_was_written_down(copied: Path) -> None:
    """A version is there then, without aliases and without a change: it is no champion that was lost."""
    with connection() as client:
        client.delete_registered_model("troupe")
    layout.HISTORY.unlink()
    killed_before_write(1, lambda: promote(RULE))
    assert (numbers(), aliases()) == (["1"], (None, None))
    assert promote(RULE).verdict.outcome == "promoted"
    assert (numbers(), aliases()) == (["1"], ("1", None))


def test_who_reaches_the_store_through_its_server_is_kept_out_too(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a pipeline beside `make ui` does, and a rollback in a terminal does not."""
    monkeypatch.setattr(line, "WAIT_SECONDS", 0.1)

    def change() -> None:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
        with pytest.raises(RegistryError, match="another process is changing the release line"), line.exclusive():
            pass

    with line.exclusive():
        process = forked(change)
        process.join()
    assert process.exitcode == 0


@pytest.mark.slow
def test_a_killed_promotion_whose_version_is_deleted_is_dropped_and_made_again(copied: Path) -> None:
    killed_before_write(2, lambda: promote(RULE))
    with connection() as client:
        client.delete_model_version("troupe", "3")
    assert promote(RULE).verdict.outcome == "promoted"
    assert (aliases(), actions()[2:]) == (("4", "2"), ["deleted", "promoted"])
    assert "its version was deleted" in history.entries()[2].reasons[0]


def at_once(body: Callable[[], object]) -> list[int | None]:
    """Run it in two processes that come to the lock of the release line while a third has it; their exit statuses."""

    def waiting() -> None:
        real = line.exclusive

        def exclusive() -> Any:
            Path(f"waiting-{os.getpid()}").touch()
            return real()

        line.exclusive = exclusive  # type: ignore[assignment]
        try:
            body()
        except RegistryError as error:
            os._exit(3 if "the champion has changed meanwhile, it is models:/troupe/1" in str(error) else 4)

    with line.exclusive():
        both = [forked(waiting) for _ in range(2)]
        while len([*Path().glob("waiting-*")]) < 2:
            assert all(one.is_alive() for one in both)
            time.sleep(0.01)
    for one in both:
        one.join()
    return sorted(one.exitcode or 0 for one in both)


def test_of_two_rollbacks_at_once_one_is_told_that_the_champion_has_changed(copied: Path) -> None:
    assert at_once(rollback) == [0, 3]
    assert (aliases(), actions().count("rolled back")) == (("1", "2"), 1)


@pytest.mark.fault("two promotions at once: one version")
def test_two_promotions_at_once_make_one_version(copied: Path) -> None:
    assert at_once(lambda: promote(RULE)) == [0, 0]
    assert (numbers(), aliases(), actions().count("promoted")) == (["1", "2", "3"], ("3", "2"), 3)


# files


def stored(number: str) -> Path:
    """The folder with the files of a version of the release line."""
    with connection() as client:
        return Path(str(fetch._here(client, line.read(client).versions[number]))) / fetch.BUNDLE


@pytest.mark.fault("the champion's files lost for good: named, with the way back")
def test_a_champion_without_files_is_named_with_the_way_back_and_never_unchanged(copied: Path) -> None:
    shutil.rmtree(stored("2"))
    measured(bpb=2.0)
    for _ in range(2):
        decision = promote(RULE)
        assert decision.verdict.outcome == "refused"
        assert decision.fault
        assert decision.fault.startswith("models:/troupe/2: its files are gone")
        assert "`make rollback` makes the champion before it champion again" in decision.fault
        assert decision.fault in decision.verdict.reasons
    assert actions() == ["promoted", "promoted", "damaged", "refused"]
    rollback()
    assert aliases()[0] == "1"
    with pytest.raises(RegistryError, match="models:/troupe/2: its files are gone"):
        rollback()
    assert aliases()[0] == "1"


def test_a_run_with_a_broken_champion_ends_with_an_error_and_its_verdict(
    copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publish, "MODEL_STAGES", ("adversarial",))
    monkeypatch.setattr(publish.Evaluation, "read", evaluation)  # what there is here is not whole
    monkeypatch.setattr(publish, "_report", lambda *_: None)
    monkeypatch.setattr(card, "write_cards", lambda *_: None)
    shutil.rmtree(stored("2"))
    measured(bpb=2.0)
    with claim() as run:
        publication = publish.publish(run)
    with pytest.raises(RegistryError, match="models:/troupe/2: its files are gone"):
        publication.require()
    assert publication.decision
    assert publication.decision.verdict.outcome == "refused"
    assert history.entries()[-1].by.endswith(f"run {run.id}")


def test_a_better_candidate_replaces_a_broken_champion_but_not_the_way_back(copied: Path) -> None:
    shutil.rmtree(stored("2"))
    decision = promote(RULE)
    assert (decision.verdict.outcome, decision.fault) == ("promoted", None)
    assert aliases() == ("3", "1")


@pytest.mark.fault("the champion's files lost: put back if artifacts/ has them")
@pytest.mark.parametrize("harm", ["a bit", "the folder"])
def test_lost_files_are_put_back_from_artifacts_if_they_are_its_own(harm: str, copied: Path) -> None:
    """Of the champion, which lies in artifacts/ under another stage's name; of the candidate itself."""
    write_model("adversarial", 2)
    shutil.copytree("artifacts/adversarial", "artifacts/moe", dirs_exist_ok=True)
    write_model("adversarial", 3)
    for number in ("2", "1"):
        weights = stored(number) / "model.safetensors"
        if harm == "a bit":
            weights.write_bytes(weights.read_bytes()[:-1] + b"?")
        else:
            shutil.rmtree(weights.parents[2])
    measured(bpb=2.0)
    decision = promote(RULE)
    assert "models:/troupe/2: its files were lost and are put back from artifacts/" in decision.notes
    assert not decision.fault
    fetch.verify("models:/troupe/2")
    with pytest.raises(RegistryError, match="models:/troupe/1"):
        fetch.verify("models:/troupe/1")
    assert {"healed", "damaged"} <= {*actions()}

    weights = next(path for path in Path("mlartifacts").rglob("model.safetensors") if _is(path, "adversarial"))
    weights.unlink()
    assert register("adversarial", Path(".troupe/runs/run-3")).number == "3"
    assert weights.exists()


def _is(path: Path, stage: str) -> bool:
    return path.read_bytes() == Path("artifacts", stage, "model.safetensors").read_bytes()


# a workspace that was copied


def contents(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(p): (p.stat().st_size, p.stat().st_mtime_ns) for p in sorted(folder.rglob("*")) if p.is_file()}


def test_a_copied_workspace_writes_into_itself_alone_and_needs_no_other(made: Path, copied: Path) -> None:
    before = contents(made)
    made.rename(hidden := made.with_name("hidden"))
    try:
        fetch.verify("models:/troupe@champion")  # as after a move
    finally:
        hidden.rename(made)
    register("moe", _evaluated(4, accuracy=0.55))
    own(3)
    assert promote(RULE).verdict.outcome == "promoted"
    assert contents(made) == before
    with connection() as client:
        places = [client.get_model_version_download_uri("troupe", number) for number in ("1", "2", "3")]
        places += [run.info.artifact_uri for run in client.search_runs([experiment(client)])]
    assert all(place.startswith(copied.as_uri()) for place in places)


# the audit file


def test_entries_outlast_what_a_kill_or_an_editor_leaves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    first = history.Entry(
        "promoted", "a", None, "models:/troupe/1", ("why",), "models:/troupe-moe/1", {"test_bpb": 1.5}
    )
    history.append(first)
    history.append(first)
    assert history.entries() == [first]
    with history.HISTORY.open("ab") as file:
        file.write(b'{"time": "20')
    second = history.Entry("rolled back", "b", "models:/troupe/1", None)
    history.append(second)
    assert history.entries() == [first, second]
    lines = history.HISTORY.read_text().splitlines()
    assert len(lines) == 3
    assert json.loads(lines[0]) == first.plain()
    assert {"time", "by", "from", "to", "figures", "reasons"} <= first.plain().keys()


def test_every_decision_stands_in_the_registry_too(client: MlflowClient) -> None:
    promote(RULE)
    rollback()
    measured(bpb=2.0)
    promote(RULE)
    client.delete_model_version("troupe", "1")
    promote(RULE)
    tags = [client.get_registered_model("troupe").tags]
    for name in ("troupe", "troupe-adversarial"):
        tags += [version.tags for version in client.search_model_versions(f"name = '{name}'")]
    found = [history.parsed(text) for one in tags for key, text in one.items() if key.startswith(history.TAG)]
    kept = [entry for entry in history.entries() if entry.after != "models:/troupe/1"]  # whose tags went with it
    assert {entry.id: entry for entry in found if entry} == {entry.id: entry for entry in kept}


def test_a_decision_names_who_made_it_and_what_it_was_made_on(copied: Path) -> None:
    decision: Decision = promote(RULE, by="night, run 7")
    entry = history.entries()[-1]
    assert (entry.by, entry.version, entry.after) == ("night, run 7", decision.candidate.uri, "models:/troupe/3")
    assert (entry.figures["judge_accuracy"], entry.figures["champion_judge_accuracy"]) == (0.55, 0.7)
    assert entry.reasons == decision.verdict.reasons
