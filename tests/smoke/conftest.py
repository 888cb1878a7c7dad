"""What the smoke tests start from."""

from pathlib import Path

import pytest

from tests.workspace import clone, pipeline, succeed


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone in which the pipeline has run once."""
    folder = clone(tmp_path_factory.mktemp("clone"))
    succeed(pipeline(folder))
    return folder
