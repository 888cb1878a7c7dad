"""Make a registered model again, from its commit, text and parameters, in a clean worktree, and compare the digests."""

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ruamel.yaml import YAML

from troupe import layout
from troupe.bundles.bundle import found_identity
from troupe.data.source import PYTHON_DOCS, TINY_SHAKESPEARE
from troupe.errors import RegistryError
from troupe.files import read_json
from troupe.registry.lineage import Lineage, Work, trace


@dataclass(frozen=True)
class Reproduction:
    version: str
    stage: str
    commit: str
    registered: str  # sha256 of the model
    made: str

    @property
    def same(self) -> bool:
        return self.registered == self.made


def reproduce(uri: str) -> Reproduction:
    """Run the stages up to the version's own again, as its run ran them, and digest the model that they write.

    The commit is checked out beside the workspace, in a worktree of git that is removed at the end. Threads, precision
    and compilation are those that `auto` came to. Raises RegistryError if the version, its run's record, its commit or
    its text is no longer there, if it was made by uncommitted code, or if a stage fails.
    """
    found = trace(uri)
    work = found.stages[-1]
    if not work.commit or work.commit == "none":
        raise RegistryError(f"{found.version}: cannot be made again: it was made outside git")
    if work.commit.endswith("+"):
        raise RegistryError(f"{found.version}: cannot be made again: its code differed from commit {work.commit[:-1]}")
    record = _record(found.version, work)
    with _worktree(work.commit) as folder:
        graph: dict[str, Any] = YAML(typ="safe").load((folder / layout.GRAPH).read_text(encoding="utf-8"))["stages"]
        if work.stage not in graph:
            lacks = f"{layout.GRAPH} of {work.commit} has no {work.stage}"
            raise RegistryError(f"{found.version}: cannot be made again: {lacks}")
        _write_yaml(folder / layout.PARAMS, _to_run_here(record["params"]))
        for name in list(graph)[: list(graph).index(work.stage) + 1]:
            _run(folder, name, graph[name]["cmd"], found)
        made = found_identity(folder / layout.model_dir(work.stage))
    return Reproduction(found.version, work.stage, work.commit, str(work.sha256), made)


def _record(version: str, work: Work) -> Mapping[str, Any]:
    """run.json of the run that made a stage's model."""
    path = layout.RUNS / str(work.run) / "run.json"
    if not work.run or not path.exists():
        raise RegistryError(f"{version}: cannot be made again: the record of its run, {path}, is not in this workspace")
    record: Mapping[str, Any] = read_json(path)
    return record


@contextmanager
def _worktree(commit: str) -> Iterator[Path]:
    with TemporaryDirectory(prefix="troupe-") as temporary:
        folder = Path(temporary, "worktree")
        _git("worktree", "add", "--quiet", "--detach", str(folder), commit)
        try:
            yield folder
        finally:
            _git("worktree", "remove", "--force", str(folder))


def _git(*words: str) -> None:
    done = subprocess.run(["git", *words], capture_output=True, text=True)
    if done.returncode:
        raise RegistryError(f"git {words[0]} {words[1]}: {done.stderr.strip().rpartition(chr(10))[2]}")


def _run(folder: Path, stage: str, command: str, found: Lineage) -> None:
    """One stage, in the environment that this process has, with the code of the worktree; its lines go to stderr."""
    _pin(folder / layout.EFFECTIVE_PARAMS, next((work for work in found.stages if work.stage == stage), None))
    programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    outer = {name: value for name, value in os.environ.items() if name not in ("TROUPE_SET", "TROUPE_PROFILE")}
    environment = outer | {"PATH": programs, "PYTHONPATH": str(folder / "src")}
    done = subprocess.run(command, shell=True, cwd=folder, env=environment, stdout=sys.stderr)
    if done.returncode:
        raise RegistryError(f"{found.version}: cannot be made again: the stage {stage} has failed, see above")
    if stage == layout.CORPUS.name and (sha256 := read_json(folder / layout.CORPUS / "manifest.json")["sha256"]) != (
        wanted := found.text["sha256"]
    ):
        raise RegistryError(
            f"{found.version}: cannot be made again: data.source holds another text now, sha256 {sha256[:12]} instead "
            f"of {str(wanted)[:12]}; `dvc checkout` of the note of that time restores it"
        )


def _pin(path: Path, work: Work | None) -> None:
    """Let the parameters say what `auto` came to when the stage ran, if its record is still there."""
    record = layout.RUNS / str(work and work.run) / "run.json"
    if not work or not record.exists():
        return
    computed = read_json(record)["stages"].get(work.stage, {}).get("computed", {})
    known = {name: computed[name] for name in ("device", "threads", "precision") if name in computed}
    if "compiled" in computed:
        known["compile"] = "always" if computed["compiled"] else "never"
    params = YAML(typ="safe").load(path.read_text(encoding="utf-8"))
    params["run"] |= known
    _write_yaml(path, params)


def _to_run_here(params: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters, with relative paths made absolute, and with all processes on this machine."""
    run = dict(params["run"])
    if "launcher" in run:  # not before there were others
        run |= {"launcher": "local", "nodes": 1}
    data, pretrain = dict(params["data"]), dict(params["pretrain"])
    if data["source"] not in (PYTHON_DOCS, TINY_SHAKESPEARE):
        data["source"] = str(Path(data["source"]).absolute())
    if Path(pretrain["init_from"]).exists():
        pretrain["init_from"] = str(Path(pretrain["init_from"]).absolute())
    return {**params, "run": run, "data": data, "pretrain": pretrain}


def _write_yaml(path: Path, content: Mapping[str, Any]) -> None:
    text = StringIO()
    YAML().dump(dict(content), text)
    path.write_text(text.getvalue(), encoding="utf-8")
