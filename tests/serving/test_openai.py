"""OpenAI's own client library gets what it asks for."""

from typing import Any

import httpx
import pytest

from tests.serving.conftest import Shelf, bundle, started

openai = pytest.importorskip("openai", reason="openai is not installed")

ASKED = {"model": "troupe", "prompt": "To be", "max_tokens": 20, "seed": 1, "temperature": 0.7, "top_p": 0.9}


def library(client: httpx.Client, key: str = "none") -> Any:
    return openai.OpenAI(base_url=f"{client.base_url}/v1", api_key=key, max_retries=0)


def test_it_completes_streams_counts_and_lists(client: httpx.Client) -> None:
    with library(client) as ours:
        whole = ours.completions.create(**ASKED, n=2, logprobs=2, stop=["\x00"], extra_body={"top_k": 40})
        first = whole.choices[0]
        assert (len(whole.choices), first.finish_reason, len(first.text)) == (2, "length", 20)
        assert "".join(first.logprobs.tokens) == first.text
        assert (whole.usage.prompt_tokens, whole.usage.completion_tokens, whole.usage.total_tokens) == (5, 40, 45)
        stream = ours.completions.create(
            **ASKED, extra_body={"top_k": 40}, stream=True, stream_options={"include_usage": True}
        )
        *parts, last = stream
        assert "".join(part.choices[0].text for part in parts) == first.text
        assert last.usage.completion_tokens == 20
        assert [model.id for model in ours.models.list()] == ["troupe", "troupe-moe", "troupe-pretrain"]
        assert ours.models.retrieve("troupe").owned_by == "troupe"


def test_it_raises_its_own_errors(client: httpx.Client) -> None:
    with library(client) as ours:
        with pytest.raises(openai.BadRequestError, match="presence_penalty: there is no such parameter"):
            ours.completions.create(**ASKED, presence_penalty=1.0)
        with pytest.raises(openai.NotFoundError, match="there is no model 'other'"):
            ours.completions.create(**ASKED | {"model": "other"})
    with started(Shelf(troupe=bundle()), token="a token of some length", local=False) as guarded:
        with library(guarded, "wrong") as ours, pytest.raises(openai.AuthenticationError):
            ours.models.list()
        with library(guarded, "a token of some length") as ours:
            assert len(ours.completions.create(**ASKED).choices) == 1
