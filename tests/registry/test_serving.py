"""The registered model answers as promised: in a process, over HTTP, and from a store that a server shares."""

import json
import shutil
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import pytest
import torch
from mlflow.exceptions import MlflowException

from tests.servers import started
from troupe import cli
from troupe.bundles.architectures import load_bundle
from troupe.bundles.bundle import found_identity
from troupe.decoding import Decoding, generate
from troupe.layout import MODEL_STAGES
from troupe.params import PromoteParams
from troupe.registry import fetch
from troupe.registry.registration import register
from troupe.registry.release import promote, rollback
from troupe.registry.versions import table
from troupe.seeding import derive_seed
from troupe.tracking import mirror
from troupe.tracking.connection import connection, reachable

Evaluated = Callable[..., Path]
RULE = PromoteParams(bpb_margin=0.01, confidence=0.95)


def ask(url: str, **body: Any) -> Any:
    request = urllib.request.Request(
        f"{url}/invocations", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


@pytest.mark.slow
def test_predicts_as_the_signature_says_and_names_bad_requests(evaluated: Evaluated) -> None:
    version = register("pretrain", evaluated())
    with connection():
        model = mlflow.pyfunc.load_model(version.uri)
    one = model.predict(["ab", "ab"], params={"max_new_tokens": 12, "seed": 3})
    assert one == model.predict(["ab", "ab"], params={"max_new_tokens": 12, "seed": 3})
    assert one[0] != one[1], "two prompts draw from two streams"
    assert all(text.startswith("ab") for text in one)
    assert model.predict(["ab"]) != model.predict(["ab"]), "without a seed every request is fresh"
    assert model.predict(["x" * 99], params={"max_new_tokens": 1})[0].startswith("x" * 99)
    for params in (
        {"temperature": 0.0},
        {"top_p": 2.0},
        {"top_k": -3},
        {"max_new_tokens": 0},
        {"max_new_tokens": 9999},
    ):
        with pytest.raises(MlflowException, match=next(iter(params))):
            model.predict(["ab"], params=params)
    with pytest.raises(MlflowException, match="prompt is empty"):
        model.predict([""])


@pytest.mark.slow
@pytest.mark.servers
def test_mlflow_serves_the_champion_without_this_project_installed(evaluated: Evaluated, workspace: Path) -> None:
    run_dir = evaluated()
    for stage in MODEL_STAGES:
        register(stage, run_dir)
    promote(RULE)
    words = ["-m", "mlflow", "models", "serve", "--model-uri", "models:/troupe@champion", "--env-manager", "local"]
    store = {"MLFLOW_TRACKING_URI": f"sqlite:///{workspace}/mlflow.db"}
    with started(words, "/ping", **store, PYTHONPATH=str(_without_troupe(workspace))) as url:
        params = {"max_new_tokens": 5, "seed": 1}
        first = ask(url, inputs=["The "], params=params)
        assert first == ask(url, inputs=["The "], params=params)
        assert first["predictions"][0].startswith("The ")
        with pytest.raises(urllib.error.HTTPError) as refused:
            ask(url, inputs=["The "], params={"temperature": -1.0})
        assert refused.value.code == 400
        assert "temperature must be above 0" in refused.value.read().decode()
        refused.value.close()


@pytest.mark.slow
@pytest.mark.servers
def test_our_server_follows_the_champion_and_refuses_damaged_weights(evaluated: Evaluated, workspace: Path) -> None:
    """`troupe serve` on a real registry: a promotion, a rollback, and a flipped bit, while it runs."""
    run_dir = evaluated(seed=1)
    for stage in MODEL_STAGES:
        register(stage, run_dir)
    promote(RULE)
    with started(["-m", "troupe.cli", "serve"], "/health") as url:
        first, params = health(url), {"max_new_tokens": 5, "seed": 1}
        assert (first["status"], first["version"]) == ("ok", "models:/troupe/1")
        answer = ask(url, inputs=["The "], params=params)
        with connection():
            same = mlflow.pyfunc.load_model("models:/troupe@champion")
        assert answer == {"predictions": same.predict(["The "], params=params)}, "as MLflow's own server"
        with urllib.request.urlopen(f"{url}/v1/models", timeout=10) as listed:
            names = [model["id"] for model in json.load(listed)["data"]]
        assert names == ["troupe", *(f"troupe-{stage}" for stage in MODEL_STAGES)]

        second = evaluated(seed=2, accuracy=0.6)
        register("adversarial", second)
        promote(RULE)
        assert within(url, version="models:/troupe/2")["weights_sha256"] != first["weights_sha256"]
        assert ask(url, inputs=["The "], params=params) != answer
        rollback()
        within(url, version="models:/troupe/1", weights_sha256=first["weights_sha256"])
        assert ask(url, inputs=["The "], params=params) == answer

        register("adversarial", evaluated(seed=3, accuracy=0.5))
        promote(RULE)
        within(url, version="models:/troupe/3")
        for weights in Path("mlartifacts").rglob("model.safetensors"):
            *content, last = weights.read_bytes()
            weights.write_bytes(bytes([*content, last ^ 1]))
        with connection() as client:  # by hand: `troupe rollback` would refuse it, too
            client.set_registered_model_alias("troupe", "champion", "1")
        refused = within(url, status="degraded")
        assert refused["version"] == "models:/troupe/3", "what was loaded before goes on"
        assert "models:/troupe/1: refused" in refused["fault"]
        assert ask(url, inputs=["The "], params=params)


def health(url: str) -> dict[str, str]:
    with urllib.request.urlopen(f"{url}/health", timeout=10) as answer:
        found: dict[str, str] = json.load(answer)
        return found


def within(url: str, seconds: float = 30, **wanted: str) -> dict[str, str]:
    """What /health says once it says so."""
    deadline = time.monotonic() + seconds
    while not wanted.items() <= (found := health(url)).items():
        assert time.monotonic() < deadline, found
        time.sleep(0.2)
    return found


@pytest.mark.slow
def test_a_registered_model_writes_the_same_wherever_it_is_opened(
    evaluated: Evaluated, workspace: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through MLflow, from the registry and by `troupe generate` it writes what its bundle wrote before."""
    version = register("adversarial", evaluated())
    bundle = load_bundle(Path("artifacts/adversarial"))
    assert bundle.sha256 == version.tags["weights_sha256"] == found_identity(Path("artifacts/adversarial"))
    shutil.rmtree("artifacts/adversarial")

    ids_1T = torch.tensor([bundle.tokenizer.encode("The ")])
    decoding = Decoding(temperature=0.8, top_k=50, top_p=0.95, min_p=0.0)
    seeds = derive_seed(3, "serve", 0), derive_seed(3, "generate")
    by_hand = [generate(bundle.model, ids_1T, 13, decoding, [seed])[0] for seed in seeds]
    served, printed = (bundle.tokenizer.decode(ids_T.tolist()) for ids_T in by_hand)
    with connection():
        model = mlflow.pyfunc.load_model(version.uri)
    assert model.predict(["The "], params={"max_new_tokens": 13, "seed": 3}) == [served]
    assert generate(fetch.load(version.uri).model, ids_1T, 13, decoding, [seeds[1]])[0].equal(by_hand[1])
    words = f"troupe generate --model {version.uri} --seed 3 --max-new-tokens 13 --prompt".split()
    monkeypatch.setattr(sys, "argv", [*words, "The "])
    with pytest.raises(SystemExit):
        cli.main()
    assert capsys.readouterr().out == printed + "\n"


def _without_troupe(workspace: Path) -> Path:
    """A folder whose sitecustomize hides the installed troupe: the model must bring its own."""
    folder = workspace / "hidden"
    folder.mkdir()
    source = str(Path(mirror.__file__).parents[2])
    (folder / "sitecustomize.py").write_text(f"import sys; sys.path = [p for p in sys.path if p != {source!r}]\n")
    return folder


@pytest.mark.slow
@pytest.mark.servers
def test_one_store_with_and_without_a_server(
    evaluated: Evaluated, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a run wrote straight into the database is readable and writable through a server on it, and back."""
    first = evaluated(seed=1)
    mirror.mirror_run(first)
    for stage in MODEL_STAGES:
        register(stage, first)
    promote(RULE)
    words = ["-m", "mlflow", "server", "--workers", "1", "--backend-store-uri", "sqlite:///mlflow.db"]
    words += ["--no-serve-artifacts", "--default-artifact-root", str(workspace / "mlartifacts")]
    with started(words, "/health") as url:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", url)
        assert reachable(url)
        fetch.verify("models:/troupe@champion")
        second = evaluated(seed=2, accuracy=0.6)
        mirror.mirror_pending()
        versions = [register(stage, second) for stage in MODEL_STAGES]
        assert [v.number for v in versions] == ["2", "2", "2"]
        assert [register(stage, second) for stage in MODEL_STAGES] == versions
        assert promote(RULE).verdict.outcome == "promoted"
        fetch.verify("models:/troupe@champion")
        fetch.verify("models:/troupe@previous")
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert {v.number: v.aliases for v in table() if v.name == "troupe"} == {"2": ("champion",), "1": ("previous",)}
    assert fetch.load("models:/troupe@champion").sha256 == versions[2].tags["weights_sha256"]
    assert register("moe", second) == versions[1]
    assert {path.name for path in workspace.iterdir()}.isdisjoint({"mlruns"})


@pytest.mark.slow
@pytest.mark.servers
def test_a_store_that_a_server_made_and_keeps_to_itself(
    evaluated: Evaluated, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A remote server: artifacts travel over HTTP, as between containers."""
    words = ["-m", "mlflow", "server", "--workers", "1", "--backend-store-uri", "sqlite:///mlflow.db"]
    words += ["--artifacts-destination", str(workspace / "far away")]
    with started(words, "/health") as url:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", url)
        run_dir = evaluated()
        mirror.mirror_run(run_dir)
        for stage in MODEL_STAGES:
            register(stage, run_dir)
        assert register("moe", run_dir).number == "1"
        assert promote(RULE).verdict.outcome == "promoted"
        assert fetch.load("models:/troupe@champion").config["architecture"] == "gpt2"
    assert (workspace / "far away").exists()
    assert not (workspace / "mlartifacts").exists()
