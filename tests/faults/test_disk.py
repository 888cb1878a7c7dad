"""A full disk, a limit on files, a folder that refuses: one line, a status, and what was there before still works."""

import os
import resource
import shutil
from pathlib import Path

import pytest

from tests.forked import forked
from troupe.bundles.architectures import load_bundle
from troupe.errors import ArtifactError
from troupe.files import write_atomic
from troupe.layout import CHECKPOINTS, EFFECTIVE_PARAMS, model_dir
from troupe.params import Params
from troupe.progress import MetricsLog, read_metrics
from troupe.stages.common import stage_main
from troupe.stages.pretrain import pretrain

FOLDER = model_dir("pretrain")


@pytest.mark.fault("a full disk under a checkpoint: one line, the one before is good")
@pytest.mark.slow
def test_a_checkpoint_that_does_not_fit_stops_the_run_and_the_one_before_is_good(
    workspace: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first checkpoint, of step 4, comes before the first look; from step 8 on each holds the best weights too."""
    says, limit = tmp_path / "says", 0
    pretrain(workspace)
    undisturbed, model_bytes = load_bundle(FOLDER).sha256, (FOLDER / "model.safetensors").stat().st_size
    shutil.rmtree(FOLDER)
    shutil.rmtree(CHECKPOINTS)  # a finished run comes back from its newest checkpoint at once
    monkeypatch.setattr("sys.argv", ["pretrain", "--params", str(EFFECTIVE_PARAMS)])

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        stage_main("pretrain", pretrain)

    limit = 3 * model_bytes  # weights and two moments of some: 2 to 3 times the model; with the best weights one more
    process = forked(limited, says)
    process.join(60)
    assert process.exitcode == 2
    (line,) = [line for line in says.read_text().splitlines() if line.startswith("pretrain: ")]
    assert "00000008.safetensors: not written: File too large; raise the limit" in line
    assert [path.name for path in CHECKPOINTS.rglob("*.json")] == ["00000004.json"]
    assert not list(CHECKPOINTS.rglob(".0*")), "half a checkpoint was left"
    pretrain(workspace)
    assert load_bundle(FOLDER).sha256 == undisturbed
    assert [record["step"] for record in read_metrics(FOLDER / "metrics.jsonl")] == list(range(1, 41))


@pytest.mark.fault("a full disk under the log: one line")
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has it")
def test_a_log_on_a_full_disk(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    log = MetricsLog(path)
    path.unlink()
    path.symlink_to("/dev/full")
    with pytest.raises(ArtifactError, match=r"metrics\.jsonl: not written: No space left on device; make room"):
        log(1, {"train/loss": 2.0})


@pytest.mark.parametrize("name", ["file", "new/folder/file"])
def test_a_folder_that_refuses(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root may write everywhere, so the process becomes somebody else."""
    folder, says = tmp_path / "folder", tmp_path / "says"
    folder.mkdir()
    folder.chmod(0o555)
    monkeypatch.chdir(folder)

    def write() -> None:
        if os.geteuid() == 0:
            os.setuid(65534)
        try:
            write_atomic(Path(name), b"content")
        except ArtifactError as error:
            print(error)

    forked(write, says).join(30)
    folder.chmod(0o755)
    assert says.read_text() == (
        f"{name}: not written: Permission denied; make the folder writable, then run the same command again\n"
    )
    assert not list(folder.iterdir())
