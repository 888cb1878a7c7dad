"""Another champion is taken up while the server runs, if it is whole; nobody's answer changes on the way."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.serving.conftest import Shelf, bundle
from tests.serving.test_load import ask, text, until
from troupe.errors import RegistryError, RegistryUnreachable
from troupe.registry.versions import Version
from troupe.serving import models

Serving = Callable[..., httpx.Client]


def health(client: httpx.Client) -> dict[str, str]:
    found: dict[str, str] = client.get("/health").json()
    return found


def release(shelf: Shelf, number: str, what: object, name: str = "troupe") -> None:
    shelf.bundles[f"models:/{name}/{number}"] = what
    shelf.versions[name] = Version(name, number, {})


def test_a_new_champion_is_taken_up_and_no_request_is_dropped_or_mixed(serving: Serving) -> None:
    shelf = Shelf(troupe=bundle())
    client = serving(shelf)
    first = health(client)
    assert first == {
        "status": "ok",
        "model": "troupe",
        "version": "models:/troupe/1",
        "weights_sha256": bundle().sha256,
        "fault": None,
    }
    of = {"models:/troupe/1": text(client, max_tokens=500)}
    with ThreadPoolExecutor(9) as pool:
        long = pool.submit(text, client, max_tokens=500)
        until(lambda: client.server.scheduler.n_running == 1)
        release(shelf, "2", bundle(1))
        short = [pool.submit(text, client, max_tokens=9) for _ in range(40)]
        until(lambda: health(client)["version"] == "models:/troupe/2")
        of["models:/troupe/2"] = text(client, max_tokens=500)
        assert long.result() == of["models:/troupe/1"] != of["models:/troupe/2"], "it began with the old one"
    assert {one.result() for one in short} <= {whole[:9] for whole in of.values()}
    assert text(client, max_tokens=9) == of["models:/troupe/2"][:9]


@pytest.mark.fault("a champion whose weights fail their digest: the old one goes on serving")
def test_a_refused_champion_leaves_the_old_one_serving(serving: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    shelf = Shelf(troupe=bundle())
    client = serving(shelf)
    before = text(client)
    release(shelf, "2", RegistryError("models:/troupe/2: refused: its files have sha256 0, registered were 1"))
    until(lambda: health(client)["status"] == "degraded")
    assert health(client)["fault"].startswith("models:/troupe/2: refused")
    assert health(client)["version"] == "models:/troupe/1"
    assert client.get("/health").status_code == 200, "it answers"
    assert "troupe_degraded 1.0" in client.get("/metrics").text
    assert text(client) == before
    shelf.bundles["models:/troupe/2"] = bundle(1)  # someone puts it right
    monkeypatch.setattr(models, "PATIENCE", 0.0)
    until(lambda: health(client)["version"] == "models:/troupe/2")
    assert (health(client)["status"], health(client)["fault"]) == ("ok", None)


def test_a_rollback_ends_the_refusal(serving: Serving) -> None:
    shelf = Shelf(troupe=bundle())
    client = serving(shelf)
    release(shelf, "2", RegistryError("refused"))
    until(lambda: health(client)["status"] == "degraded")
    shelf.versions["troupe"] = Version("troupe", "1", {})
    until(lambda: health(client)["status"] == "ok")


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        (RegistryUnreachable("MLflow unreachable at http://x; metrics are kept"), "MLflow unreachable at http://x"),
        (RegistryError("models:/troupe@champion: not in the registry"), "models:/troupe@champion: not in the registry"),
        (ZeroDivisionError("oh"), "ZeroDivisionError: oh"),
    ],
    ids=["unreachable", "deleted", "unforeseen"],
)
def test_whatever_befalls_the_registry_the_model_goes_on(serving: Serving, error: Exception, fault: str) -> None:
    shelf = Shelf(troupe=bundle())
    client = serving(shelf)
    before, well = text(client), True

    def offered(uri: str) -> dict[str, Version]:
        if well:
            return shelf.offered(uri)
        raise error

    client.server.models._look_up = offered
    well = False
    until(lambda: health(client)["fault"] == fault)
    assert text(client) == before
    well = True
    until(lambda: health(client)["status"] == "ok")


def test_the_next_who_asks_for_a_stage_gets_its_newest_version(serving: Serving) -> None:
    shelf = Shelf(**{"troupe": bundle(), "troupe-moe": bundle(1)})
    client = serving(shelf)
    assert client.get("/v1/models/troupe-moe").json()["created"] == 0, "it is loaded when it is asked for"
    before = text(client, model="troupe-moe")
    assert client.get("/v1/models/troupe-moe").json()["created"] > 0
    release(shelf, "2", bundle(2), name="troupe-moe")
    until(lambda: text(client, model="troupe-moe") != before)
    assert health(client)["version"] == "models:/troupe/1"


def test_the_writer_that_has_died_is_noticed(serving: Serving) -> None:
    client = serving(Shelf(troupe=bundle()))
    client.server._tasks[0].get_loop().call_soon_threadsafe(client.server._tasks[0].cancel)
    until(lambda: client.get("/health").status_code == 503)
    assert client.get("/health").json()["status"] == "down"
    assert ask(client).status_code == 503
