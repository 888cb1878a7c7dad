"""MLflow whose artifacts lie in an S3-compatible store: a real MLflow server, and a server that speaks S3."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.servers import BUCKET, keys, s3, started
from troupe.layout import MODEL_STAGES
from troupe.params import PromoteParams
from troupe.registry import fetch
from troupe.registry.registration import register
from troupe.registry.release import promote
from troupe.tracking import mirror


@pytest.mark.slow
@pytest.mark.servers
def test_models_are_registered_promoted_and_read_from_s3(
    evaluated: Callable[..., Path], workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with s3(workspace, monkeypatch) as address:
        monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", address)
        words = ["--workers", "1", "--backend-store-uri", "sqlite:///mlflow.db"]
        words += ["--artifacts-destination", f"s3://{BUCKET}/mlflow"]  # clients know MLflow's server alone
        with started(["-m", "mlflow", "server", *words], "/health") as url:
            monkeypatch.setenv("MLFLOW_TRACKING_URI", url)
            run = evaluated()
            mirror.mirror_run(run)
            versions = [register(stage, run) for stage in MODEL_STAGES]
            assert promote(PromoteParams(bpb_margin=0.01, confidence=0.95)).verdict.outcome == "promoted"
            assert fetch.load("models:/troupe@champion").sha256 == versions[-1].tags["weights_sha256"]
            assert register("moe", run) == versions[1], "found whole, not made again"
        assert any(key.endswith("bundle/model.safetensors") for key in keys(address, "mlflow/"))
    assert not (workspace / "mlartifacts").exists()
