"""/v1/completions and /invocations: what is asked for is done, the same alone and in company, or refused by name."""

import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from typing import Any

import httpx
import pytest
import torch

from tests.serving.conftest import Shelf, bundle, started
from troupe.data.tokenizer import BytePairTokenizer
from troupe.decoding import Decoding, generate
from troupe.registry.recommendation import TAG
from troupe.registry.versions import Version
from troupe.seeding import derive_seed

PROMPT = "To be or"


def ask(client: httpx.Client, **body: Any) -> dict[str, Any]:
    answer = client.post("/v1/completions", json={"prompt": PROMPT, "seed": 1} | body)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def texts(answer: dict[str, Any]) -> list[str]:
    return [choice["text"] for choice in answer["choices"]]


def events(client: httpx.Client, **body: Any) -> Iterator[dict[str, Any]]:
    with client.stream("POST", "/v1/completions", json={"prompt": PROMPT, "seed": 1, "stream": True} | body) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        lines = [line for line in answer.iter_lines() if line]
    assert lines.pop() == "data: [DONE]"
    for line in lines:
        yield json.loads(line.removeprefix("data: "))


def by_hand(prompt: str, n_new: int, seed: int, number: int = 0, **decoding: Any) -> str:
    one = bundle()
    ids_1T = torch.tensor([one.tokenizer.encode(prompt)])
    made = generate(one.model, ids_1T, n_new, Decoding(**decoding), [derive_seed(seed, "serve", number)])
    return one.tokenizer.decode(made[0, ids_1T.size(1) :].tolist())


def test_an_answer_is_what_the_sampler_writes(client: httpx.Client) -> None:
    answer = ask(client, max_tokens=40, temperature=0.7, top_p=0.9, top_k=20, seed=5)
    assert texts(answer) == [by_hand(PROMPT, 40, 5, temperature=0.7, top_p=0.9, top_k=20)]
    assert answer["choices"][0] | {"text": ""} == {"index": 0, "text": "", "logprobs": None, "finish_reason": "length"}
    assert answer["usage"] == {"prompt_tokens": 8, "completion_tokens": 40, "total_tokens": 48}
    assert (answer["object"], answer["model"]) == ("text_completion", "troupe")
    assert answer["system_fingerprint"] == "fp_000000000000"
    assert texts(ask(client, max_tokens=40, temperature=0)) == [by_hand(PROMPT, 40, 0, greedy=True)]
    assert len(texts(ask(client))[0]) == 16, "OpenAI's default of max_tokens"
    assert texts(ask(client, seed=None)) != texts(ask(client, seed=None)), "without a seed every answer is fresh"


@pytest.mark.parametrize("least", [{"top_p": 5e-324}, {"temperature": 5e-324}, {"temperature": 1e-30}, {"top_k": 1.0}])
def test_the_least_of_anything_is_the_likeliest_token(client: httpx.Client, least: dict[str, float]) -> None:
    """Found by schemathesis, as was that 16.0 is an integer to JSON."""
    assert texts(ask(client, max_tokens=9.0, **least)) == [by_hand(PROMPT, 9, 0, greedy=True)]


def test_the_description_has_the_bounds_that_are_kept(client: httpx.Client) -> None:
    """Found by schemathesis: pydantic put those of integers under names that JSON schema does not have."""
    schemas = client.get("/openapi.json").json()["components"]["schemas"]
    tried = 0
    for path, name, least in (
        ("/v1/completions", "CompletionRequest", {"prompt": PROMPT, "max_tokens": 1}),
        ("/invocations", "InvocationParams", {"max_new_tokens": 1}),
    ):
        for field, schema in schemas[name]["properties"].items():
            for number in (one for one in schema.get("anyOf", [schema]) if one.get("type") in ("integer", "number")):
                below = -2 * abs(int(number["minimum"])) - 1 if "minimum" in number else number["exclusiveMinimum"]
                above = 2 * int(number["maximum"]) + 1 if "maximum" in number else number["exclusiveMaximum"]
                for value in (below, above):
                    asked: dict[str, Any] = least | {field: value}
                    answer = client.post(path, json={"inputs": ["a"], "params": asked} if "inv" in path else asked)
                    assert (answer.status_code, field in answer.text) == (400, True), (field, value)
                tried += 1
    assert tried == 15


def test_n_and_several_prompts_are_numbered_as_openai_does(client: httpx.Client) -> None:
    answer = ask(client, prompt=["ab", "cd"], n=2, max_tokens=9)
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2, 3]
    assert texts(answer) == [by_hand(prompt, 9, 1, number) for number, prompt in enumerate(["ab", "ab", "cd", "cd"])]
    assert answer["usage"] == {"prompt_tokens": 4, "completion_tokens": 36, "total_tokens": 40}


@pytest.mark.parametrize("streaming", [False, True])
def test_text_ends_before_the_first_stop(client: httpx.Client, streaming: bool) -> None:
    whole = by_hand(PROMPT, 60, 1)
    for stop in (whole[20:23], [whole[30:35], "no such text", whole[10:12]], whole[:4], whole[-3:]):
        end = min(place for one in ([stop] if isinstance(stop, str) else stop) if (place := whole.find(one)) >= 0)
        if streaming:
            parts = list(events(client, max_tokens=60, stop=stop))
            found = "".join(part["choices"][0]["text"] for part in parts)
            reasons = [part["choices"][0]["finish_reason"] for part in parts]
            assert reasons == [None] * (len(parts) - 1) + ["stop"]
        else:
            choice = ask(client, max_tokens=60, stop=stop)["choices"][0]
            found, reason = choice["text"], choice["finish_reason"]
            assert reason == "stop"
        assert found == whole[:end]


def test_a_stream_is_the_answer_in_pieces(client: httpx.Client) -> None:
    whole = ask(client, prompt=[PROMPT, "x"], max_tokens=30, logprobs=2)
    parts = list(
        events(client, prompt=[PROMPT, "x"], max_tokens=30, logprobs=2, stream_options={"include_usage": True})
    )
    assert parts.pop() | {"id": "", "created": 0} == whole | {"id": "", "created": 0, "choices": []}
    for number, choice in enumerate(whole["choices"]):
        own = [part["choices"][0] for part in parts if part["choices"][0]["index"] == number]
        assert len(own) == 30
        assert "".join(part["text"] for part in own) == choice["text"]
        for name, column in choice["logprobs"].items():
            assert list(chain.from_iterable(part["logprobs"][name] for part in own)) == column


def test_logprobs_are_the_models_own(client: httpx.Client) -> None:
    choice = ask(client, max_tokens=12, temperature=0.3, top_k=5, logprobs=3)["choices"][0]
    one, told = bundle(), choice["logprobs"]
    ids = one.tokenizer.encode(PROMPT + choice["text"])
    logp_TV = one.model(torch.tensor([ids]))[0].detach().double().log_softmax(-1)[7:-1]
    assert "".join(told["tokens"]) == choice["text"]
    assert told["text_offset"] == list(range(12))
    own = logp_TV.gather(-1, torch.tensor([ids[8:]]).T)[:, 0]
    torch.testing.assert_close(torch.tensor(told["token_logprobs"]).double(), own, atol=1e-4, rtol=0)
    for token, alternatives, logp_V in zip(told["tokens"], told["top_logprobs"], logp_TV, strict=True):
        assert token in alternatives
        likeliest = {chr(i) for i in logp_V.topk(3).indices.tolist()}
        assert likeliest <= alternatives.keys() <= likeliest | {token}
    told = ask(client, logprobs=0, max_tokens=1)["choices"][0]["logprobs"]
    assert [list(alternatives) for alternatives in told["top_logprobs"]] == [told["tokens"]]


def test_sixteen_at_once_are_the_sixteen_alone(client: httpx.Client) -> None:
    """Of different lengths, ways and beginnings, so that they join and leave one by one."""
    asked = [
        {"prompt": PROMPT * (1 + i % 5), "max_tokens": 5 + 7 * i, "temperature": (0, 0.7, 1)[i % 3], "seed": i}
        for i in range(16)
    ]
    alone = [texts(ask(client, **body)) for body in asked]
    for _ in range(3):
        with ThreadPoolExecutor(16) as pool:
            assert [texts(answer) for answer in pool.map(lambda body: ask(client, **body), asked)] == alone


def test_invocations_are_answered_as_mlflow_does(client: httpx.Client) -> None:
    params = {"max_new_tokens": 12, "temperature": 0.5, "top_k": 0, "top_p": 1.0, "min_p": 0.1, "seed": 3}
    answer = client.post("/invocations", json={"inputs": ["ab", "ab"], "params": params})
    written = [by_hand("ab", 12, 3, number, temperature=0.5, min_p=0.1) for number in (0, 1)]
    assert answer.json() == {"predictions": ["ab" + text for text in written]}
    assert len(client.post("/invocations", json={"inputs": ["ab"]}).json()["predictions"][0]) == 10


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"prompt": ""}, "prompt"),
    ({"prompt": []}, "prompt"),
    ({"prompt": ["a", ""]}, "prompt"),
    ({"prompt": ["a"] * 17}, "prompt"),
    ({"prompt": [1, 2]}, "prompt"),
    ({"prompt": None}, "prompt"),
    ({"prompt": "\ud800"}, "prompt"),
    ({"prompt": "a" * 4097}, "4097 tokens; it may have 4096"),
    ({"prompt": ["a"] * 9, "n": 2}, "more than 16 texts"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_tokens": 4097}, "max_tokens"),
    ({"max_tokens": "16"}, "max_tokens"),
    ({"max_tokens": True}, "max_tokens"),
    ({"max_tokens": 1.5}, "max_tokens"),
    ({"temperature": -1}, "temperature"),
    ({"temperature": 2.1}, "temperature"),
    ({"top_p": 0}, "top_p"),
    ({"top_k": -1}, "top_k"),
    ({"n": 17}, "n: "),
    ({"logprobs": 6}, "logprobs"),
    ({"logprobs": True}, "logprobs"),
    ({"stop": ["a"] * 5}, "stop"),
    ({"stop": [""]}, "stop"),
    ({"seed": 2**53 + 1}, "seed"),
    ({"repetition_penalty": 1e-9}, "repetition_penalty"),
    ({"stream": 1}, "stream"),
    ({"stream": True, "stream_options": {"other": 1}}, "there is no such parameter"),
    ({"presence_penalty": 0.5}, "presence_penalty: there is no such parameter"),
    ({"echo": True}, "echo: there is no such parameter"),
]


@pytest.mark.parametrize(("body", "said"), REFUSED, ids=[str(body)[:40] for body, _ in REFUSED])
def test_what_is_not_done_is_refused_by_name(client: httpx.Client, body: dict[str, Any], said: str) -> None:
    content = json.dumps({"prompt": PROMPT} | body)
    answer = client.post("/v1/completions", content=content, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert said in error["message"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"{", "the body is no JSON"),
        (b"", "must be a JSON object"),
        (b"[]", "must be a JSON object"),
        (b'"x"', "must be a JSON object"),
        (b"\xff\xfe", "body"),
        (b'{"prompt": "a", "temperature": NaN}', "temperature"),
        (b'{"prompt": "a", "seed": ' + b"9" * 5000 + b"}", "body"),
        (b"[" * 100_000, "body"),
    ],
    ids=["cut short", "nothing", "a list", "a string", "no UTF-8", "NaN", "a huge number", "deep"],
)
@pytest.mark.parametrize("path", ["/v1/completions", "/invocations"])
def test_malformed_bodies_are_refused(client: httpx.Client, path: str, content: bytes, said: str) -> None:
    answer = client.post(path, content=content, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400, answer.text
    if path == "/v1/completions":
        assert said in answer.json()["error"]["message"]
    else:
        assert answer.json().keys() == {"error_code", "message"}


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"inputs": [""]}, "inputs"),
        ({"inputs": ["a"], "params": {"temperature": 0}}, "params.temperature"),
        ({"inputs": ["a"], "params": {"top_k": -3}}, "params.top_k"),
        ({"inputs": ["a"], "params": {"max_new_tokens": 9999}}, "params.max_new_tokens"),
        ({"inputs": ["a"], "params": {"nonsense": 1}}, "params.nonsense: there is no such parameter"),
        ({"inputs": ["a"] * 3000}, "inputs"),
    ],
)
def test_invocations_name_bad_requests(client: httpx.Client, body: dict[str, Any], said: str) -> None:
    answer = client.post("/invocations", json=body)
    assert answer.status_code == 400
    assert answer.json()["message"].startswith(said)


def test_another_content_type_is_no_json(client: httpx.Client) -> None:
    """What a form of a foreign page could send without asking first."""
    answer = client.post("/v1/completions", content=b'{"prompt": "a"}', headers={"Content-Type": "text/plain"})
    assert (answer.status_code, "application/json" in answer.text) == (400, True)


def test_models_are_listed_and_asked_for_by_name(client: httpx.Client) -> None:
    listed = client.get("/v1/models").json()
    assert [model["id"] for model in listed["data"]] == ["troupe", "troupe-moe", "troupe-pretrain"]
    assert client.get("/v1/models/troupe").json() == listed["data"][0]
    other = ask(client, model="troupe-moe")
    assert other["model"] == "troupe-moe"
    assert texts(other) != texts(ask(client, model="troupe"))
    for answer in (
        client.get("/v1/models/x"),
        client.post("/v1/completions", json={"prompt": "a", "model": "x"}),
    ):
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")
    refused = client.post("/v1/completions", json={"prompt": "a", "model": "troupe-pretrain"})
    assert (refused.status_code, refused.json()["error"]["message"]) == (503, "refused: sha256")
    assert ask(client)["model"] == "troupe", "the others go on"


def test_unknown_routes_and_methods_are_refused_alike(client: httpx.Client) -> None:
    for answer, status in ((client.get("/v2"), 404), (client.get("/v1/completions"), 405)):
        assert (answer.status_code, answer.json()["error"]["type"][-5:]) == (status, "error")
    assert client.get("/docs").status_code == 404, "a page that loads scripts from another host"


def test_the_token_that_ends_a_text_ends_it_unwritten() -> None:
    tokenizer = BytePairTokenizer("gpt2", [bytes([byte]) for byte in range(256)])
    endless = bundle(tokenizer=tokenizer)
    with torch.no_grad():
        endless.model.token_embedding.weight[tokenizer.end_id, 0] = 100.0
    with started(Shelf(troupe=endless)) as client:
        choice = ask(client, max_tokens=5)["choices"][0]
        assert (choice["text"], choice["finish_reason"]) == ("", "stop")
        assert [part["choices"][0]["text"] for part in events(client, max_tokens=5)] == [""]
        assert client.post("/invocations", json={"inputs": ["x"]}).json() == {"predictions": ["x"]}


def test_a_recommended_decoding_is_followed_where_a_request_asks_for_none(serving: Callable[..., httpx.Client]) -> None:
    """It is read with every look at the registry; one that cannot be read is none."""
    shelf = Shelf(troupe=bundle())
    client = serving(shelf)
    own = by_hand(PROMPT, 30, 5)
    assert texts(ask(client, max_tokens=30, seed=5)) == [own]
    shelf.versions["troupe"] = Version("troupe", "1", {TAG: json.dumps({"top_k": 3, "temperature": 0.5})})
    recommended = by_hand(PROMPT, 30, 5, top_k=3, temperature=0.5)
    assert eventually(lambda: texts(ask(client, max_tokens=30, seed=5)) == [recommended])
    assert texts(ask(client, max_tokens=30, seed=5, temperature=1)) == [own], "a request that says how is obeyed"
    shelf.versions["troupe"] = Version("troupe", "1", {TAG: "{"})
    assert eventually(lambda: texts(ask(client, max_tokens=30, seed=5)) == [own])


def eventually(holds: Callable[[], bool]) -> bool:
    """Within five seconds; the server of these tests looks at its registry fifty times a second."""
    return any(holds() or time.sleep(0.05) for _ in range(100))
