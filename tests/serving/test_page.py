"""The page in a real browser: one prompt, and what every model writes, side by side."""

import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.serving.conftest import Shelf, bundle, started
from tests.serving.test_load import ask

pytestmark = [pytest.mark.browser, pytest.mark.slow]
STAGES = ("troupe-pretrain", "troupe-moe", "troupe-adversarial")


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """Whose errors and requests to others fail the test."""
    page, wrong = browser.new_page(), list[str]()
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("request", lambda request: "127.0.0.1" in request.url or wrong.append(request.url))
    yield page
    page.close()
    assert not wrong


def noted(page: Any, name: str, what: str) -> None:
    """Wait until a model's note says it. (The page's own policy allows no eval, which wait_for_function wants.)"""
    page.locator(f"#of-{name} .note", has_text=what).wait_for()


def models() -> Shelf:
    return Shelf(troupe=bundle(3), **{name: bundle(seed) for seed, name in enumerate(STAGES)})


def test_every_stage_answers_side_by_side(page: Any) -> None:
    with started(models()) as client:
        page.goto(str(client.base_url))
        page.wait_for_selector("#of-troupe-adversarial")
        page.fill("#prompt", "To <b>be</b>")
        page.fill("#max_tokens", "300")
        page.fill("#seed", "7")
        page.click("#write")
        for name in ("troupe", *STAGES):
            noted(page, name, "300 tokens")
            asked = {"prompt": "To <b>be</b>", "max_tokens": 300, "temperature": 0.8, "top_p": 0.95, "seed": 7}
            written = ask(client, model=name, **asked).json()["choices"][0]["text"]
            assert page.text_content(f"#of-{name} pre") == "To <b>be</b>" + written
        assert page.is_disabled("#stop")


def test_it_asks_for_the_token_and_says_what_is_wrong(page: Any) -> None:
    with started(models(), token="a token of some length") as client:
        page.goto(str(client.base_url))
        page.wait_for_selector("#secret:not([hidden])")
        assert "bearer token" in page.text_content("#status")
        page.fill("#token", "a token of some length")
        page.click("#write")
        noted(page, "troupe", "100 tokens")
        page.fill("#prompt", "x" * 5000)
        page.click("#write")
        page.wait_for_selector("#of-troupe [role=alert]")
        assert "5000 tokens; it may have 4096" in page.text_content("#of-troupe .note")


def test_stopping_ends_the_writing(page: Any) -> None:
    with started(models()) as own:
        page.goto(str(own.base_url))
        page.fill("#max_tokens", "4096")
        page.click("#write")
        page.locator("#of-troupe pre", has_text=re.compile(".{20}")).wait_for()
        page.click("#stop")
        noted(page, "troupe", "stopped")
        deadline = 100
        while own.server.scheduler.n_running and deadline:
            page.wait_for_timeout(20)
            deadline -= 1
        assert own.server.scheduler.n_running == 0
