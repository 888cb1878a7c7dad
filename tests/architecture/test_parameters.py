"""No function takes more than a reader can hold."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
CODE = ("src", "pipelines", "studies", "benchmarks", "tools", "docker")
MOST = 7  # parameters, `self` left out


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def is_command(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Of typer, for which a parameter is an option of the command line."""
    return any(ast.unparse(decorator).endswith(".command()") for decorator in function.decorator_list)


def test_parameter_lists_are_short() -> None:
    long = {}
    for path in (path for folder in CODE for path in (ROOT / folder).rglob("*.py")):
        for function in functions(path):
            given = function.args
            several = (given.vararg, given.kwarg)
            names = [one.arg for one in (*given.posonlyargs, *given.args, *given.kwonlyargs, *filter(None, several))]
            count = len([name for name in names if name not in ("self", "cls")])
            if count > MOST and not is_command(function):
                long[f"{path.relative_to(ROOT)}:{function.lineno} {function.name}"] = count
    assert not long
