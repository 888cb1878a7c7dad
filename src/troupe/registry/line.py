"""The release line as it stands, and changes of its two aliases that survive a kill, a second writer and a person.

MLflow sets one alias at a time and knows no transaction. So a change is first written down as a whole, in one tag of
the registered model (`troupe.decision`: the aliases before and after it, the entry for the audit file); then `previous`
is set, then `champion`, then the entry is recorded, and last the tag says that the change is settled. Whoever comes
next finds one of three things: a settled change and the aliases that it describes; an unsettled one with aliases on the
way, which it completes; or aliases that no change describes: a person has moved them, or a deletion has removed them.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from troupe import layout
from troupe.errors import RegistryError
from troupe.registry import history
from troupe.registry.history import Entry
from troupe.registry.versions import CHAMPION, PREVIOUS, RELEASE, Version, only_if_absent, versions_of
from troupe.tracking import store
from troupe.tracking.connection import tracking_uri

TAG = "troupe.decision"
A_PERSON = "a person, in MLflow"
WAIT_SECONDS = 60.0


@dataclass(frozen=True)
class Aliases:
    """The numbers of the versions that they name."""

    champion: str | None = None
    previous: str | None = None


@dataclass(frozen=True)
class Change:
    before: Aliases
    after: Aliases
    entry: Entry | None  # None: nothing was decided, the aliases were only written down
    settled: bool

    def text(self) -> str:
        """The change as the value of its tag."""
        entry = self.entry.plain() if self.entry else None
        return json.dumps(asdict(replace(self, entry=None)) | {"entry": entry}, ensure_ascii=False)

    @classmethod
    def from_text(cls, text: str | None) -> "Change | None":
        """The change that a tag describes; None if there is none or someone has edited it beyond use."""
        try:
            plain: dict[str, Any] = json.loads(text or "")
            entry = Entry.from_plain(plain["entry"]) if plain["entry"] else None
            return cls(Aliases(**plain["before"]), Aliases(**plain["after"]), entry, bool(plain["settled"]))
        except (ValueError, KeyError, TypeError):
            return None


@dataclass(frozen=True)
class Line:
    aliases: Aliases
    versions: Mapping[str, Version]  # by number, oldest first; deleted ones are not there
    change: Change | None  # the last one

    @property
    def champion(self) -> Version | None:
        return self.versions.get(self.aliases.champion or "")

    @property
    def previous(self) -> Version | None:
        return self.versions.get(self.aliases.previous or "")

    @property
    def begun(self) -> bool:
        """Whether there is, or has been, a champion: versions of ours, an alias, or a change that names one."""
        ours = any("weights_sha256" in version.tags for version in self.versions.values())
        return ours or self.aliases != Aliases() or self.change is not None

    def cut_short(self, weights_sha256: str) -> bool:
        """Whether these weights were about to become the first champion ever when a kill came."""
        made = [version.tags.get("weights_sha256") for version in self.versions.values()]
        return self.change is None and self.aliases == Aliases() and made == [weights_sha256]

    def taken_from(self, weights_sha256: str) -> Entry | None:
        """The decision by which a person replaced these weights as champion, unless they became it again since.

        By the entries on the versions of this store; those of the audit file may be about another store's numbers.
        """
        found = None
        for entry in self._entries():
            if entry.after != entry.before and self._weights(entry.after) == weights_sha256:
                found = None
            elif self._weights(entry.before) == weights_sha256 and entry.action in (history.ROLLED_BACK, history.MOVED):
                found = entry
        return found

    def _entries(self) -> list[Entry]:
        """What the tags of the versions say of decisions, oldest first."""
        tags = [tag for version in self.versions.values() for tag in version.tags.items()]
        found = [entry for key, text in tags if key.startswith(history.TAG) and (entry := history.parsed(text))]
        return sorted(found, key=lambda entry: (datetime.fromisoformat(entry.time), entry.id))

    def _weights(self, uri: str | None) -> str | None:
        version = self.versions.get((uri or "").rpartition("/")[2])
        return version.tags.get("weights_sha256") if version else None

    def remedy(self) -> Version | None:
        """What a rollback makes champion: `previous`, or without it the newest other version of ours."""
        if self.aliases.previous != self.aliases.champion and self.previous:
            return self.previous
        others = [v for n, v in self.versions.items() if n != self.aliases.champion and "weights_sha256" in v.tags]
        return others[-1] if others else None


@contextmanager
def exclusive() -> Iterator[None]:
    """Be the only one to change the release line from this workspace and, of a store file, with that file.

    With `make ui` some processes reach the workspace's store through its server and others do not: both are kept out.
    Raises RegistryError if another does not end within a minute.
    """
    file = store.file_of(tracking_uri())
    paths = [layout.STATE / "line.lock", *([Path(f"{file}.line.lock")] if file else [])]
    with ExitStack() as stack:
        for path in paths:
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                stack.enter_context(FileLock(path, timeout=WAIT_SECONDS))  # the system frees it when the process dies
            except Timeout:
                raise RegistryError(f"{path}: another process is changing the release line; try again later") from None
        yield


def read(client: MlflowClient) -> Line:
    """The release line; an empty one if nothing was ever released."""
    try:
        model = client.get_registered_model(RELEASE)
    except MlflowException as error:
        only_if_absent(error)
        return Line(Aliases(), {}, None)
    versions = {version.number: version for version in reversed(versions_of(client, RELEASE))}
    named = {alias: str(number) for alias, number in model.aliases.items()}
    return Line(Aliases(named.get(CHAMPION), named.get(PREVIOUS)), versions, Change.from_text(model.tags.get(TAG)))


def reconciled(client: MlflowClient) -> tuple[Line, list[Entry]]:
    """The release line after a change that was cut short is completed, and what others did to the aliases recorded.

    Returns the entries for what was completed and noticed. To be called inside `exclusive`.
    """
    line = read(client)
    change = line.change
    if change and not change.settled and _unfinished_moves(line, change):
        _carry_out(client, line, change)
        return read(client), [change.entry] if change.entry else []
    if not line.begun and (last := _last_champion()):
        reason = "this MLflow store has no release line: it is a new one, or the registered model was deleted"
        entry = Entry(history.DELETED, "unknown", last, None, (reason,))
        history.append(entry)
        return line, [entry]
    if change is None and line.aliases != Aliases():
        reason = "these aliases were set before there was a record of changes"
        entry = Entry(history.ADOPTED, history.who(), None, _uri(line.aliases.champion), (reason,))
        return change_aliases(client, line, line.aliases, entry), [entry]
    if change is None or line.aliases == change.after:
        return line, []
    after, entry = _noticed(line, change.after if change.settled else change.before)
    return change_aliases(client, line, after, entry), [entry]


def change_aliases(client: MlflowClient, line: Line, after: Aliases, entry: Entry) -> Line:
    """Move the aliases from where they are in `line`, and record the entry. To be called inside `exclusive`.

    Raises RegistryError if another machine, which no lock of ours reaches, has moved them at the same time.
    """
    change = Change(line.aliases, after, entry, settled=False)
    client.set_registered_model_tag(RELEASE, TAG, change.text())
    _carry_out(client, line, change)
    found = read(client)
    if found.aliases != after:
        raise RegistryError(
            f"the aliases of {RELEASE} were moved by someone else at the same time: champion is now "
            f"{_uri(found.aliases.champion)}; look at `troupe versions`, then decide again"
        )
    return found


def record(client: MlflowClient, entry: Entry) -> None:
    """Put an entry into the audit file and, as a tag, on the version that it is about."""
    history.append(entry)
    key, value = f"{history.TAG}{entry.id}", json.dumps(entry.plain(), ensure_ascii=False)
    about = entry.after if entry.after != entry.before else entry.version
    if not about:
        client.set_registered_model_tag(RELEASE, key, value)
        return
    name, _, number = about.removeprefix("models:/").partition("/")
    try:
        client.set_model_version_tag(name, number, key, value)
    except MlflowException as error:  # deleted meanwhile
        only_if_absent(error)


def _last_champion() -> str | None:
    """The champion by the audit file."""
    entries = history.entries()
    return entries[-1].after if entries else None


def _carry_out(client: MlflowClient, line: Line, change: Change) -> None:
    for alias, found, wanted in (
        (PREVIOUS, line.aliases.previous, change.after.previous),
        (CHAMPION, line.aliases.champion, change.after.champion),
    ):
        if wanted is None:
            client.delete_registered_model_alias(RELEASE, alias)  # no error where there is none
        elif wanted != found:
            client.set_registered_model_alias(RELEASE, alias, wanted)
    if change.entry:
        record(client, change.entry)
    client.set_registered_model_tag(RELEASE, TAG, replace(change, settled=True).text())


def _unfinished_moves(line: Line, change: Change) -> bool:
    """Whether the aliases are as a kill in the middle of this change leaves them, and it can be completed."""
    steps = (change.before, replace(change.before, previous=change.after.previous), change.after)
    wanted = {number for number in (change.after.champion, change.after.previous) if number}
    return line.aliases in steps and wanted <= line.versions.keys()


def _noticed(line: Line, known: Aliases) -> tuple[Aliases, Entry]:
    """What others did to the aliases, which were `known`: the aliases with a way back, and the entry for it.

    `previous` comes to name the champion before, so that a rollback undoes what a person did, unless that person has
    moved `previous` as well.
    """
    found, reasons = line.aliases, []
    gone = [number for number in (known.champion, known.previous) if number and number not in line.versions]
    reasons += [f"{_uri(number)} was deleted" for number in dict.fromkeys(gone)]
    moves = {CHAMPION: (known.champion, found.champion), PREVIOUS: (known.previous, found.previous)}
    for alias, (before, after) in moves.items():
        if before != after and not (before in gone and after is None):
            reasons.append(f"{alias} was {f'set to {_uri(after)}' if after else 'removed'}")
    moved = found.champion != known.champion and found.champion is not None
    untouched = found.previous in (known.previous, None)
    keeps = known.champion in line.versions and known.champion != found.champion and untouched
    if not reasons:
        reasons.append("a change that was cut short is dropped: its version was deleted")
    action = history.DELETED if (gone and not moved) or found == known else history.MOVED
    wanted = replace(found, previous=known.champion) if keeps else found
    return wanted, Entry(action, A_PERSON, _uri(known.champion), _uri(found.champion), tuple(reasons))


def _uri(number: str | None) -> str | None:
    return f"models:/{RELEASE}/{number}" if number else None
