"""The recommended decoding: a tag in a real registry, which generating and serving follow unless told otherwise."""

from collections.abc import Callable
from pathlib import Path

import pytest

from troupe.cli.text import DEFAULTS, _decoding
from troupe.decoding import Decoding
from troupe.errors import RegistryError
from troupe.registry.recommendation import TAG, recommend, recommended, recommended_at
from troupe.registry.registration import register
from troupe.tracking.connection import connection

FOUND = Decoding(temperature=0.7, min_p=0.05)


@pytest.fixture
def uri(evaluated: Callable[..., Path]) -> str:
    """A registered version of a tiny model."""
    return register("pretrain", evaluated()).uri


def test_what_is_recommended_is_read_again(uri: str) -> None:
    assert recommended_at(uri) is None
    version = recommend(uri, FOUND)
    assert version.uri == uri
    assert recommended(version) == recommended_at(uri) == FOUND


def test_a_tag_that_is_no_decoding_is_named(uri: str) -> None:
    name, number = uri.removeprefix("models:/").split("/")
    with connection() as client:
        wrongs = (
            "{",
            '"hot"',
            '{"heat": 1}',
            '{"temperature": -1}',
            '{"top_k": 2.5}',
            '{"top_k": true}',
            '{"greedy": "no"}',
        )
        for wrong in wrongs:
            client.set_model_version_tag(name, number, TAG, wrong)
            with pytest.raises(RegistryError, match=f"{uri}: its tag decoding is no decoding"):
                recommended_at(uri)


def test_generating_follows_it_unless_told_otherwise(uri: str) -> None:
    assert _decoding(uri, {}) == Decoding(**DEFAULTS)
    recommend(uri, FOUND)
    assert _decoding(uri, {}) == FOUND
    assert _decoding(uri, {"temperature": 1.0}) == Decoding(**DEFAULTS | {"temperature": 1.0})
    assert _decoding(uri, {"top_k": 0}) == Decoding(temperature=0.8, top_p=0.95)
    assert _decoding("pretrain", {}) == Decoding(**DEFAULTS), "only a registered model has a recommendation"
