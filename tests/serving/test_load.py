"""A full queue, time-outs, clients that leave, models that fail: everyone gets an answer, and nobody another's."""

import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
import torch

from tests.serving.conftest import Shelf, bundle
from troupe.serving import scheduler
from troupe.serving.scheduler import Limits

Serving = Callable[..., httpx.Client]
LONG = {"prompt": "a", "max_tokens": 4096, "seed": 1}  # a second and more


def until(true: Callable[[], bool], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@contextmanager
def streaming(client: httpx.Client, **body: Any) -> Iterator[Iterator[str]]:
    """The lines of an endless answer, the first of which has come; the client leaves at the end of the block."""
    with client.stream("POST", "/v1/completions", json=LONG | {"stream": True} | body) as answer:
        lines = (line for line in answer.iter_lines() if line)
        next(lines)
        yield lines


def ask(client: httpx.Client, **body: Any) -> httpx.Response:
    return client.post("/v1/completions", json={"prompt": "a", "seed": 1} | body)


def text(client: httpx.Client, **body: Any) -> str:
    answer = ask(client, **body)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["choices"][0]["text"])


def test_a_full_queue_refuses_and_those_in_it_are_answered(serving: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduler, "MOST_ROWS", 1)
    client = serving(Shelf(troupe=bundle()), limits=Limits(waiting=2))
    queue = client.server.scheduler
    alone = text(client)
    with ThreadPoolExecutor(2) as pool, streaming(client):
        waiting = [pool.submit(text, client) for _ in range(2)]
        until(lambda: queue.n_waiting == 2)
        assert (queue.n_running, queue.n_waiting) == (1, 2)
        refused = ask(client)
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
        assert refused.json()["error"]["type"] == "rate_limit_error"
        assert ask(client, n=3).status_code == 429
    assert [one.result() for one in waiting] == [alone, alone]
    until(lambda: queue.n_running == 0)


def test_who_finds_no_room_in_time_is_told_so(serving: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduler, "MOST_ROWS", 1)
    client = serving(Shelf(troupe=bundle()), limits=Limits(queue_seconds=0.1))
    with streaming(client):
        late = ask(client)
        assert (late.status_code, late.headers["retry-after"]) == (503, "5")
        assert "no room within 0.1 s" in late.json()["error"]["message"]


def test_what_takes_too_long_is_ended(serving: Serving) -> None:
    client = serving(Shelf(troupe=bundle()), limits=Limits(seconds=0.1))
    late = ask(client, **LONG)
    assert (late.status_code, late.json()["error"]["message"]) == (504, "not done within 0.1 s; ask for fewer tokens")
    with streaming(client) as lines:
        *_, last = lines
    assert json.loads(last.removeprefix("data: "))["error"]["message"].startswith("not done within 0.1 s")
    assert client.server.scheduler.n_running == 0


def test_nothing_is_written_for_clients_that_have_left(serving: Serving) -> None:
    client = serving(Shelf(troupe=bundle()))
    queue = client.server.scheduler
    with streaming(client, n=4):
        until(lambda: queue.n_running == 4)
    until(lambda: queue.n_running == 0)
    with pytest.raises(httpx.ReadTimeout):
        client.post("/v1/completions", json=LONG, timeout=0.1)
    until(lambda: queue.n_running == 0)
    figures = client.get("/metrics").text
    assert 'troupe_requests_total{route="/v1/completions",status="499"} 1.0' in figures
    assert 0 < float(figures.partition('troupe_tokens_total{kind="completion"} ')[2].partition("\n")[0]) < 5 * 4096


def test_a_damaged_model_fails_alone(serving: Serving) -> None:
    damaged = bundle(1)
    with torch.no_grad():
        damaged.model.norm.bias.fill_(torch.nan)
    client = serving(Shelf(**{"troupe": bundle(), "troupe-moe": damaged}))
    with ThreadPoolExecutor(2) as pool:
        whole = pool.submit(text, client, max_tokens=300)
        for _ in range(2):
            failed = ask(client, model="troupe-moe")
            assert failed.status_code == 500
            assert "its weights are damaged" in failed.json()["error"]["message"]
    assert whole.result() == text(client, max_tokens=300)
    assert client.get("/health").json()["status"] == "ok"


def test_after_a_step_that_failed_halfway_texts_are_as_ever(serving: Serving) -> None:
    """Of two texts that join, one has been read when memory runs out."""
    one = bundle()
    forward, calls, fails_at = one.model.forward, list[int](), 0

    def failing(*given: Any) -> Any:
        calls.append(len(calls) + 1)
        if calls[-1] == fails_at:
            raise MemoryError
        return forward(*given)

    one.model.forward = failing  # type: ignore[method-assign]
    client = serving(Shelf(troupe=one))
    before = text(client, prompt="abc")
    fails_at = len(calls) + 2
    failed = ask(client, n=2)
    said = failed.json()["error"]["message"]
    assert (failed.status_code, said) == (500, "the text could not be written (MemoryError)")
    assert text(client, prompt="abc") == before


def test_stopping_lets_requests_finish(serving: Serving) -> None:
    client = serving(Shelf(troupe=bundle()))
    whole = text(client, max_tokens=600)
    with ThreadPoolExecutor(1) as pool:
        under_way = pool.submit(text, client, max_tokens=600)
        until(lambda: client.server.scheduler.n_running == 1)
        client.uvicorn.should_exit = True
        assert under_way.result() == whole
