"""The code that a result depends on: the module that makes it, and all of ours that this imports, directly or not.

It is found in the source by grimp, on which import-linter stands: imports inside functions count, nothing is executed,
and there is no list to keep. Every change of such a file counts, of a comment too: to compute a result again costs
time, a stale one costs more.
"""

import hashlib
import json
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from grimp import ImportGraph


def code_digest(module: str) -> str:
    """32 hex digits that change with the code of `code_of(module)`, wherever the packages lie."""
    parts = {name: hashlib.sha256(file.read_bytes()).hexdigest() for name, file in code_of(module).items()}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


def code_of(module: str) -> dict[str, Path]:
    """The files, by module: of `module`, of those that it imports from its own package or from troupe, and so on.

    To import a.b.c runs a and a.b as well. Raises ModuleNotFoundError if there is no such module.
    """
    graph = _imports(frozenset({"troupe", module.partition(".")[0]}))
    if module not in graph.modules:
        raise ModuleNotFoundError(f"no module {module!r}")
    found, new = set[str](), {module}
    while new:
        found |= new
        imported = {name for one in new for name in graph.find_modules_directly_imported_by(one)}
        new = (imported | {one.rpartition(".")[0] for one in new}) - found - {""}
    return {name: file for name in sorted(found) if (file := _file(name)) is not None}


@cache
def _imports(packages: frozenset[str]) -> "ImportGraph":
    import grimp  # late: most commands ask for no digest

    return grimp.build_graph(*sorted(packages), cache_dir=None)


def _file(module: str) -> Path | None:
    """Its source; None of a folder without __init__.py, which is a package too, but has none."""
    package, *parts = module.split(".")
    spec = find_spec(package)
    for folder in (spec and spec.submodule_search_locations) or ():
        path = Path(folder, *parts)
        for file in (path.with_suffix(".py"), path / "__init__.py"):
            if file.is_file():
                return file
    return None
