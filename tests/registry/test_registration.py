"""What a registered version asks to be installed is enough to load it."""

import json
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, packages_distributions, requires

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from troupe.registry.registration import REQUIREMENTS

LOAD = """
import json, sys
for name in json.loads(sys.argv[1]):
    sys.modules[name] = None  # as if it were not installed: importing it raises ModuleNotFoundError
import troupe.registry.pyfunc
"""


def closure(names: tuple[str, ...]) -> set[str]:
    """The distributions and whatever they require, as far as it is installed; extras only where they are asked for."""
    waiting, seen = [Requirement(name) for name in names], set[tuple[str, str]]()
    while waiting:
        wanted = waiting.pop()
        for extra in ("", *sorted(wanted.extras)):
            if (key := (canonicalize_name(wanted.name), extra)) in seen:
                continue
            seen.add(key)
            try:
                needed = [Requirement(line) for line in requires(wanted.name) or ()]
            except PackageNotFoundError:
                continue
            waiting += [one for one in needed if not one.marker or one.marker.evaluate({"extra": extra})]
    return {name for name, _ in seen}


def load_with(names: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
    """Import what serves a model, in a fresh interpreter that has only these requirements and troupe."""
    there = closure(names) | {"troupe"}
    distributions = packages_distributions()
    hidden = [top for top, of in distributions.items() if not there & {canonicalize_name(name) for name in of}]
    return subprocess.run([sys.executable, "-c", LOAD, json.dumps(hidden)], capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_a_version_loads_with_its_own_requirements() -> None:
    found = load_with(REQUIREMENTS)
    assert found.returncode == 0, found.stderr


@pytest.mark.slow
def test_a_requirement_that_is_left_out_is_noticed() -> None:
    """Nothing else brings it along: so the test above can fail."""
    error = load_with(tuple(name for name in REQUIREMENTS if name != "ruamel.yaml")).stderr.splitlines()[-1]
    assert error.startswith("ModuleNotFoundError")
    assert "ruamel" in error
