"""The report in a real browser: the model writes what it writes in Python, and the page asks nobody for anything."""

import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.evaluation.javascript import greedy_text
from tests.evaluation.test_embedded import EXPERTS, TOKENIZERS, WORDS, bundle, held_out, model
from tests.evaluation.test_report import provenance, write_reports
from troupe.evaluation.embedded import embed
from troupe.evaluation.report import render_report
from troupe.models.gpt2 import GPT

pytestmark = [pytest.mark.browser, pytest.mark.slow]
TOKENIZER = TOKENIZERS["bpe"]
WRITTEN = re.compile(r"tokens in [\d.]+ s")


def network() -> GPT:
    """Of experts, with every part that the default has; its context is full after 10 tokens."""
    modern = {"positions": "rotary", "norm": "rms", "activation": "swiglu", "conv": 3, "qk_norm": True, "bias": False}
    return model(EXPERTS["sigmoid"], TOKENIZER.vocab_size, **modern)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("reports")
    write_reports(folder, embed("moe", bundle(network(), TOKENIZER), held_out(WORDS * 4, TOKENIZER), 5, "It's"))
    return render_report(folder, None, provenance()).as_uri()


@pytest.fixture(params=["light", "dark"])
def page(browser: Any, report: str, request: pytest.FixtureRequest) -> Iterator[Any]:
    """The report on a phone. Errors, and requests to anyone, fail the test."""
    phone = {"width": 390, "height": 844}
    context, wrong = browser.new_context(viewport=phone, color_scheme=request.param), list[str]()
    page = context.new_page()
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda message: message.type == "error" and wrong.append(message.text))
    page.on("request", lambda asked: asked.url.startswith(("file:", "data:", "blob:")) or wrong.append(asked.url))
    page.goto(report)
    yield page
    context.close()
    assert not wrong


def write(page: Any, prompt: str, **fields: float) -> str:
    """What the model writes after a prompt."""
    page.fill("#prompt", prompt)
    for name, value in fields.items():
        page.fill(f"#{name}", str(value))
    page.click("#write")
    page.locator("#note", has_text=WRITTEN).wait_for()
    whole: str = page.text_content("#written")
    assert whole.startswith(prompt)
    return whole[len(prompt) :]


def test_greedy_text_is_python_s_for_a_hundred_tokens(page: Any) -> None:
    for prompt in ("It's", "naïve 日本 <b>😀"):
        expected = greedy_text(network(), TOKENIZER.encode(prompt), 100)
        assert len(set(expected)) > 5
        assert write(page, prompt, count=100, temperature=0) == TOKENIZER.decode(expected)
    page.click("#check")
    page.locator("#note", has_text="the 100 that Python wrote are the same").wait_for()


def test_a_seed_repeats_its_text_and_another_writes_another(page: Any) -> None:
    one, same, other = (write(page, "It", count=40, temperature=1.0, seed=seed) for seed in (1, 1, 2))
    assert one == same != other


def test_the_page_stays_responsive_and_stops(page: Any) -> None:
    page.evaluate("setInterval(() => (document.body.dataset.ticks = Number(document.body.dataset.ticks ?? 0) + 1), 10)")
    page.fill("#count", "2000")
    page.click("#write")
    page.locator("#note", has_text=re.compile(r"^\d+ tokens$")).wait_for()
    assert int(page.get_attribute("body", "data-ticks")) > 0, "the page's own thread goes on meanwhile"
    page.click("#stop")
    note = page.text_content("#note")
    assert 0 < int(re.fullmatch(r"stopped after (\d+) tokens", note)[1]) < 2000
    written = page.text_content("#written")
    page.wait_for_timeout(300)
    assert page.text_content("#written") == written
    assert write(page, "It", count=5, temperature=0) == TOKENIZER.decode(
        greedy_text(network(), TOKENIZER.encode("It"), 5)
    )


def test_nothing_hangs_over_the_edge_of_a_phone(page: Any) -> None:
    assert page.evaluate("document.documentElement.scrollWidth") == 390


def test_its_policy_refuses_every_request(browser: Any, report: str) -> None:
    """Even one that a script in the page would make."""
    other = browser.new_page()
    other.goto(report)
    asked = """() => new Promise((found) => {
        document.addEventListener("securitypolicyviolation", (event) => found(event.violatedDirective));
        fetch("http://127.0.0.1:9/").then(() => found("sent"), () => 0);
    })"""
    assert other.evaluate(asked) == "connect-src"
    other.close()
