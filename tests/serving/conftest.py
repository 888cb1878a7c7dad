"""A server of small models on a free port, in a thread of the test's process."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import httpx
import pytest
import torch
import uvicorn

from troupe.bundles.bundle import Bundle
from troupe.data.tokenizer import ByteTokenizer, Tokenizer
from troupe.errors import RegistryError
from troupe.models.config import GPTConfig
from troupe.models.gpt2 import GPT, init_gpt2
from troupe.registry.versions import Version
from troupe.serving.app import create_app
from troupe.serving.models import Models

PRINTABLE = range(32, 127)


def bundle(seed: int = 0, tokenizer: Tokenizer | None = None) -> Bundle:
    """Of a model over bytes that writes ASCII."""
    tokenizer = tokenizer or ByteTokenizer()
    config = GPTConfig(tokenizer.vocab_size, block_size=32, n_layer=2, n_head=2, n_embd=16, dropout=0.0)
    model = GPT(config)
    init_gpt2(model, torch.Generator().manual_seed(seed))
    with torch.no_grad():
        model.token_embedding.weight.mul_(2)
        model.norm.weight[0], model.norm.bias[0] = 0.0, 1.0  # so the first feature of the output is 1, whatever is read
        model.token_embedding.weight[:, 0] = -50.0
        model.token_embedding.weight[PRINTABLE.start : PRINTABLE.stop, 0] = 0.0
    return Bundle(model.eval(), tokenizer, {}, f"{seed:064d}")


class Shelf:
    """What a registry would say; `versions` may change while a server looks."""

    def __init__(self, **bundles: Bundle | Exception) -> None:
        self.bundles = {f"models:/{name}/1": one for name, one in bundles.items()}
        self.versions = {name: Version(name, "1", {}) for name in bundles}

    def offered(self, uri: str) -> dict[str, Version]:
        return self.versions.copy()

    def load(self, uri: str) -> Bundle:
        found = self.bundles[uri]
        if isinstance(found, Exception):
            raise found
        return found


@contextmanager
def started(shelf: Shelf, **how: Any) -> Iterator[httpx.Client]:
    """A client of a server; its `server` is what the routes share."""
    models = Models("models:/troupe@champion", shelf.offered, shelf.load, seconds=0.02)
    models.open()
    app = create_app(models, **how)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=5))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            while not server.started:
                time.sleep(0.005)
            url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            with httpx.Client(base_url=url, timeout=30) as client:
                client.server, client.uvicorn = app.state.server, server  # type: ignore[attr-defined]
                yield client
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture(scope="session")
def client() -> Iterator[httpx.Client]:
    """Of a server with one model to ask for by default, one more, and one that is refused."""
    shelf = Shelf(**{"troupe": bundle(), "troupe-moe": bundle(1), "troupe-pretrain": RegistryError("refused: sha256")})
    with started(shelf) as client:
        yield client


@pytest.fixture
def serving() -> Iterator[Callable[..., httpx.Client]]:
    """Start a server of its own for a test."""
    with ExitStack() as stack:
        yield lambda shelf, **how: stack.enter_context(started(shelf, **how))
