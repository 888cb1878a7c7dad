"""Which models can be asked for: one that is always loaded, and the newest of each stage, loaded when it is first
asked for. The registry is looked at every few seconds, and what it names anew is taken up between two requests.

A model is only ever taken up whole: with the weights that were registered. Until then, and if it is refused, the one
before goes on serving.
"""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from troupe.bundles.bundle import Bundle
from troupe.decoding import Decoding
from troupe.errors import RegistryError, RegistryUnreachable, TroupeError
from troupe.layout import MODEL_STAGES
from troupe.registry import fetch
from troupe.registry.recommendation import recommended
from troupe.registry.versions import Version, model_name, newest, resolve
from troupe.serving.scheduler import Engine
from troupe.tracking.connection import connection

SECONDS = 5.0  # between two looks at the registry
PATIENCE = 60.0  # seconds until a version that was refused is read again: someone may have put its files right


class Unknown(Exception):
    """No model of this name is offered."""


@dataclass(frozen=True, eq=False)
class Served:
    """A model that answers."""

    version: Version
    bundle: Bundle
    engine: Engine
    since: int = field(default_factory=lambda: int(time.time()))

    @property
    def name(self) -> str:
        return self.version.name


class Models:
    """The models by name; the first is the one at `uri`. `offered` and `load` are the registry."""

    def __init__(
        self,
        uri: str,
        offered: Callable[[str], dict[str, Version]] | None = None,
        load: Callable[[str], Bundle] = fetch.load,
        seconds: float = SECONDS,
    ) -> None:
        self.uri, self._look_up, self._load, self._seconds = uri, offered or registered, load, seconds
        self.fault: str | None = None  # why the registry's newest is not what is served
        self._offered: dict[str, Version] = {}
        self._served: dict[str, Served] = {}
        self._lock = asyncio.Lock()  # MLflow has one store per process
        self._refused = ("", 0.0)  # the version that was, and when

    def open(self) -> Served:
        """Load the first model. Raises RegistryError if there is none or its weights are not those registered."""
        self._offered = self._look_up(self.uri)
        version = next(iter(self._offered.values()))
        self._served[version.name] = self._read(version)
        self.main = version.name
        return self._served[version.name]

    @property
    def first(self) -> Served:
        return self._served[self.main]

    @property
    def names(self) -> list[str]:
        return list(self._offered)

    def since(self, name: str) -> int:
        """When the model that answers was loaded, in seconds since 1970; 0: nobody has asked for it yet."""
        return self._served[name].since if name in self._served else 0

    async def get(self, name: str | None) -> Served:
        """The model of a name, the first without one. Raises Unknown, or RegistryError if its files are refused."""
        name = self.main if name is None else name
        if name not in self._offered:
            raise Unknown(name)
        if name not in self._served:
            async with self._lock:
                if name not in self._served:  # meanwhile
                    self._served[name] = await asyncio.to_thread(self._read, self._offered[name])
        return self._served[name]

    def decoding(self, served: Served) -> Decoding | None:
        """What the registry recommends for a model now; None where it says nothing, or nothing that can be read."""
        newest = self._offered.get(served.name)
        with suppress(RegistryError):
            return recommended(newest if newest and newest.uri == served.version.uri else served.version)
        return None

    async def watch(self) -> None:
        """Look at the registry again and again."""
        while True:
            await asyncio.sleep(self._seconds)
            await self.look()

    async def look(self) -> None:
        """Take up what the registry names now; `fault` says why if that cannot be."""
        async with self._lock:
            try:
                self._offered = await asyncio.to_thread(self._look_up, self.uri)
                for name, one in self._served.copy().items():
                    if name == self.main:
                        await self._take_up(self._offered[name])
                    elif name not in self._offered or self._offered[name].uri != one.version.uri:
                        del self._served[name]  # the next who asks for it gets the newer one
            except RegistryUnreachable as error:
                self.fault = str(error).partition(";")[0]  # what follows is advice for a run
            except Exception as error:  # whatever it is, what is served goes on
                self.fault = str(error) if isinstance(error, TroupeError) else f"{type(error).__name__}: {error}"

    async def _take_up(self, version: Version) -> None:
        refused, when = self._refused
        if version.uri == refused and time.monotonic() < when + PATIENCE:
            return
        if version.uri != (before := self.first.version.uri):
            self._refused = version.uri, time.monotonic()  # unless it can be read
            self._served[self.main] = await asyncio.to_thread(self._read, version)
            print(f"{self.uri} is {version.uri} now; it was {before}", flush=True)
        self._refused, self.fault = ("", 0.0), None

    def _read(self, version: Version) -> Served:
        bundle = self._load(version.uri)
        return Served(version, bundle, Engine(bundle))


def registered(uri: str) -> dict[str, Version]:
    """By name, the version at `uri` and then the newest of each stage that has one. Raises RegistryError if there is
    nothing at `uri`, RegistryUnreachable if the registry does not answer."""
    with connection() as client:
        first = resolve(client, uri)
        found = {first.name: first}
        for stage in MODEL_STAGES:
            if version := newest(client, model_name(stage)):
                found.setdefault(version.name, version)
        return found
