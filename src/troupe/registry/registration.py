"""Put a stage's model into the registry: once for each result, whoever made it, whenever the registry was lost."""

import hashlib
import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version as installed
from pathlib import Path
from tempfile import TemporaryDirectory

import mlflow
from mlflow import MlflowClient
from mlflow.entities import LoggedModelOutput
from mlflow.models import Model
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

import troupe
from troupe import layout
from troupe.bundles.bundle import CONFIG, FILES, found_identity, identity
from troupe.data.corpus import read_manifest
from troupe.errors import ArtifactError
from troupe.files import read_json
from troupe.gate import Figures
from troupe.params import INCIDENTAL, Params, load_params
from troupe.registry import fetch, pyfunc
from troupe.registry.request import EXAMPLE_PARAMS, EXAMPLE_PROMPTS
from troupe.registry.versions import Version, create, model_name, of
from troupe.tracking.connection import connection, experiment
from troupe.tracking.mirror import stage_run

REQUIREMENTS = (  # what generating text imports
    "mlflow", "torch", "numpy", "safetensors", "tiktoken", "tokenizers", "pydantic", "ruamel.yaml",
)  # fmt: skip
LOGGED_MODEL = re.compile(r"m-[0-9a-f]{32}")  # MLflow's id of one, a part of the address of its files


@dataclass(frozen=True)
class Result:
    """The identity of what a stage has made: equal results are one version."""

    weights_sha256: str  # of all that decides what it writes: bundle.identity
    data_sha256: str
    params_sha256: str  # of the parameters that shape it: its own section and those before it in params.yaml


def register(stage: str, run_dir: Path) -> Version:
    """The registered version of what lies in artifacts/<stage>; made if there is none, with its figures up to date.

    The model is attached to the MLflow run that made it, or to the run recorded in `run_dir`. Raises ArtifactError if
    the model is missing or corrupted, RegistryError if MLflow cannot be reached.
    """
    result = result_of(stage)
    with connection() as client:
        tokenizer = {"tokenizer_sha256": read_json(layout.model_dir(stage) / CONFIG)["tokenizer_sha256"]}
        tags = asdict(result) | tokenizer | _figures(stage, result) | _parent(client, stage)
        found = find(client, stage, result) or _create(client, stage, result, run_dir)
        for key, value in tags.items():
            if found.tags.get(key) != value:
                client.set_model_version_tag(found.name, found.number, key, value)
        return of(client.get_model_version(found.name, found.number))


def result_of(stage: str) -> Result:
    """Digest what lies in the workspace. Raises ArtifactError if its files are not those that the stage wrote."""
    folder = layout.model_dir(stage)
    digest = found_identity(folder)
    if digest != identity(read_json(folder / CONFIG)):
        raise ArtifactError(f"{folder}: not the files that {CONFIG} describes; run `make pipeline`")
    sections = list(Params.model_fields)
    shaping = set(sections[: sections.index(stage) + 1])
    incidental = {name: set(fields) for name, fields in INCIDENTAL.items()}
    params = load_params(layout.EFFECTIVE_PARAMS).model_dump(include=shaping, exclude=incidental)
    text = json.dumps(params, sort_keys=True)
    return Result(digest, read_manifest(layout.CORPUS)["sha256"], hashlib.sha256(text.encode()).hexdigest())


def find(client: MlflowClient, stage: str, result: Result) -> Version | None:
    """The first version with this result whose files are whole, or can be put back from artifacts/."""
    same = f"name = '{model_name(stage)}' and tags.weights_sha256 = '{result.weights_sha256}'"
    found = [of(version) for version in client.search_model_versions(same, order_by=["version_number ASC"])]
    found = [version for version in found if asdict(result).items() <= dict(version.tags).items()]
    whole = (version for version in found if not fetch.fault(client, version))
    return next(whole, None) or next((version for version in found if heal(client, version)), None)


def heal(client: MlflowClient, version: Version) -> bool:
    """Put a version's files back from artifacts/<stage>, where they are its own: of its digest. Whether it is whole."""
    registered = version.tags.get("weights_sha256", "")
    stage = next((name for name in layout.MODEL_STAGES if _digest(name) == registered), None)
    # A version of the release line lies where the stage's version lies from which it was made. It is written to by its
    # address: a client goes on writing where the model of that id lay when this process first asked for it.
    place = client.get_model_version_download_uri(version.name, version.number)
    ids = LOGGED_MODEL.findall(place)
    if not stage or not ids:
        return False
    with _saved(stage, version.run_id, ids[-1], registered) as folder:
        get_artifact_repository(place).log_artifacts(str(folder))  # type: ignore[no-untyped-call]
    return not fetch.fault(client, version)


def _digest(stage: str) -> str | None:
    try:
        return found_identity(layout.model_dir(stage))
    except ArtifactError:
        return None


def _create(client: MlflowClient, stage: str, result: Result, run_dir: Path) -> Version:
    run_id = stage_run(run_dir, stage, result.weights_sha256)
    made = client.get_run(run_id).data.tags  # of the run that made it, be it this one or one long ago
    known = {"run_id": made.get("troupe.run_id"), "git_commit": made.get("mlflow.source.git.commit")}
    tags = {name: value for name, value in known.items() if value} | asdict(result)  # a person may have deleted them
    model_id = _log_model(client, stage, result, run_id)
    return create(client, model_name(stage), f"models:/{model_id}", run_id, tags, model_id)


def _log_model(client: MlflowClient, stage: str, result: Result, run_id: str) -> str:
    """Store a stage's model under its MLflow run, with the code that reads it; return its id."""
    logged = client.create_logged_model(experiment(client), stage, source_run_id=run_id, model_type="text-generator")
    with _saved(stage, run_id, logged.model_id, result.weights_sha256) as folder:
        client.log_model_artifacts(logged.model_id, str(folder))
    client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, step=0)])
    client.finalize_logged_model(logged.model_id, "READY")
    return str(logged.model_id)


@contextmanager
def _saved(stage: str, run_id: str | None, model_id: str, weights_sha256: str) -> Iterator[Path]:
    """A folder with a stage's model as MLflow serves it."""
    with TemporaryDirectory() as temporary:
        bundle, folder = Path(temporary, "bundle"), Path(temporary, "model")
        bundle.mkdir()
        for name in FILES:
            shutil.copy(layout.model_dir(stage) / name, bundle)
        mlflow.pyfunc.save_model(
            folder,
            mlflow_model=Model(run_id=run_id, model_id=model_id),
            python_model=pyfunc.__file__,
            artifacts={"bundle": str(bundle)},
            code_paths=[str(Path(troupe.__file__).parent)],  # so that it loads where troupe is not installed
            pip_requirements=[f"{name}=={installed(name).partition('+')[0]}" for name in REQUIREMENTS],
            input_example=(EXAMPLE_PROMPTS, EXAMPLE_PARAMS),
            model_config={"weights_sha256": weights_sha256},
        )
        yield folder


def _figures(stage: str, result: Result) -> dict[str, str]:
    """What the report measured of exactly this model."""
    if not layout.METRICS.exists():
        return {}
    figures = Figures.from_report(read_json(layout.METRICS), stage)
    return figures.tags() if figures.weights_sha256 == result.weights_sha256 else {}


def _parent(client: MlflowClient, stage: str) -> dict[str, str]:
    """The version that this stage's model grew from."""
    position = layout.MODEL_STAGES.index(stage)
    if position == 0:
        return {}
    before = layout.MODEL_STAGES[position - 1]
    found = find(client, before, result_of(before))
    return {"parent": found.uri} if found else {}
