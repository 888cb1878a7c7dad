"""Identifiers are made of the field's words: models are trained, evaluated, detected and selected."""

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = [file for folder in ("src", "pipelines", "studies", "benchmarks") for file in (ROOT / folder).rglob("*.py")]
DIALECT = {
    *("told", "said", "heard", "hear", "hearing", "duel", "duels", "contender", "contenders", "bury", "buried"),
    *("way", "among", "moonshot", "following", "lesson", "lessons", "taught", "deaf"),
}


def identifiers(file: Path) -> Iterator[tuple[str, int]]:
    """What a file names, and where: functions, classes, parameters, variables, attributes."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name, node.lineno
        elif isinstance(node, ast.arg):
            yield node.arg, node.lineno
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id, node.lineno
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr, node.lineno


def words(identifier: str) -> set[str]:
    return set(re.sub(r"([a-z])([A-Z])", r"\1_\2", identifier).lower().split("_"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_no_identifier_holds_a_word_of_the_old_dialect(file: Path) -> None:
    assert not [f"line {line}: {name}" for name, line in identifiers(file) if words(name) & DIALECT]


def test_words_are_found_in_any_spelling() -> None:
    assert words("_least_told") & DIALECT == {"told"}
    assert words("DuelResult") & DIALECT == {"duel"}
    assert words("always_away") & DIALECT == set()


def test_no_public_type_of_the_package_is_defined_twice() -> None:
    """Classes, and aliases such as `Floats = NDArray[np.float64]`: a name leads to one place."""
    homes = defaultdict(list)
    for file in (ROOT / "src").rglob("*.py"):
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            target = node.targets[0] if isinstance(node, ast.Assign) and len(node.targets) == 1 else None
            name = node.name if isinstance(node, ast.ClassDef) else target.id if isinstance(target, ast.Name) else ""
            if name[:1].isupper() and not name.isupper():
                homes[name].append(file.name)
    assert {name: files for name, files in homes.items() if len(files) > 1} == {}
