"""Every command that README.md and docs show in a block of shell: that there is such a target, program, subcommand,
option, profile and parameter. docs/tutorial.md is typed through by tests/smoke/test_tutorial.py as well.
"""

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from tests.conftest import ROOT
from troupe.cli.common import app
from troupe.overlay import split_overrides
from troupe.params import load_params

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCKS = re.compile(r"^```(?:sh|bash|shell|console)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=")
HERE = ".venv/bin/"
# Of these nothing is looked at but that the shell can read them.
ONLY_THE_SHELL = {
    "export": "an assignment, for the commands after it",
    "mkdir": "not ours; typed by the tutorial's test",
    "cp": "not ours; typed by the tutorial's test",
}
# Programs of others: that they have the subcommand with these options is read from their --help; what they would do
# takes servers or a bucket of one's own, and tests/pipelines/test_remote.py and tests/smoke/test_work_pool.py do it.
OTHERS = ("dvc", "prefect", "mlflow", "pip")


def commands(text: str) -> Iterator[str]:
    """The lines of a page's blocks, those that end with a backslash joined with the next."""
    for block in BLOCKS.findall(text):
        for line in block.replace("\\\n", " ").splitlines():
            if words := shlex.split(line, comments=True):
                yield shlex.join(words)


SHOWN = sorted({command for page in PAGES for command in commands(page.read_text(encoding="utf-8"))})


def test_pages_show_commands() -> None:
    assert list(commands("a\n```sh\nmake x \\\n  Y=1   # why\n\n# only words\n```\n")) == ["make x Y=1"]
    assert len(SHOWN) > 30
    assert {command.split()[0] for command in SHOWN} > {"make", f"{HERE}troupe"}


def marked(command: str) -> Any:
    """`slow` where a program of another takes seconds to say what it can do."""
    slow = any(f"{HERE}{name} " in command for name in OTHERS if name != "dvc")
    return pytest.param(command, id=command[:60], marks=[pytest.mark.slow] if slow else [])


@pytest.mark.parametrize("command", [*map(marked, SHOWN)])
def test_a_command_that_is_shown_is_one(command: str) -> None:
    subprocess.run(["bash", "-nc", command], check=True)
    words = shlex.split(command)
    while words and ASSIGNMENT.match(words[0]):
        words.pop(0)
    program, *rest = words
    if program in ONLY_THE_SHELL:
        return
    if program == "make":
        require_target(*rest)
    elif program == f"{HERE}troupe":
        require_subcommand(*rest)
    else:
        assert program.removeprefix(HERE) in OTHERS, f"{program}: say in this file how it is covered"
        require_help(program.removeprefix(HERE), rest)


def require_target(target: str, *variables: str) -> None:
    """Its recipe is printed, not run; parameters and profiles are laid over params.yaml, as the pipeline would."""
    makefile = (ROOT / "Makefile").read_text()
    assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"make has no target {target}"
    given = dict(variable.split("=", 1) for variable in variables)
    for name in given.keys() - {"TZ"}:  # which the system reads
        assert re.search(rf"\b{name}\b", makefile), f"the Makefile has no variable {name}"
    printed = subprocess.run(["make", "-n", target, *variables], cwd=ROOT, capture_output=True, text=True, check=True)
    assert printed.stdout
    load_params(ROOT / "params.yaml", split_overrides(given.get("SET", "")), given.get("PROFILE", ""))


def require_subcommand(name: str, *arguments: str) -> None:
    """Its arguments are read as the program reads them, and nothing is done."""
    subcommands: Any = typer.main.get_command(app)
    subcommands.commands[name].make_context(name, [*arguments])
    if "--profile" in arguments:
        load_params(ROOT / "params.yaml", [], arguments[arguments.index("--profile") + 1])


def require_help(program: str, arguments: list[str]) -> None:
    """`program sub command --help` succeeds and names every option."""
    path = Path(sys.prefix, "bin", program)
    own = [word for word in arguments if re.fullmatch(r"[a-z][a-z-]*", word)]
    subcommands = own[: {"dvc remote": 2, "prefect work-pool": 2, "prefect worker": 2}.get(f"{program} {own[0]}", 1)]
    shown = subprocess.run([path, *subcommands, "--help"], cwd=Path.home(), capture_output=True, text=True, check=True)
    for option in (word.partition("=")[0] for word in arguments if word.startswith("--")):
        assert option in shown.stdout, f"{program} {' '.join(subcommands)} has no option {option}"


@pytest.mark.parametrize(
    "command", ["make pipelines", 'make pipeline SET="run.sead=1"', ".venv/bin/troupe generate --promt x"]
)
def test_a_command_that_is_none_is_found_out(command: str) -> None:
    with pytest.raises(Exception, match=r"no target|run\.sead|--promt"):
        test_a_command_that_is_shown_is_one(command)
