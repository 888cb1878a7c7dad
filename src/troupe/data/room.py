"""How much text the later stages need: a text that is too short for them is refused before anything is trained.

From bytes alone only what is certain can be refused, as a token holds at least one byte; from token ids, the rest. The
advice names values with which a run goes through, for its last stage too.
Nothing here imports numpy or torch: the `inputs` stage runs on every call and must start fast.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Protocol

from troupe.data.corpus import CYCLE, LONGEST_CHARACTER, Split, split_of
from troupe.errors import CorpusError
from troupe.params import Params, RefinementParams

if TYPE_CHECKING:
    from troupe.data.dataset import TokenDataset

FEWEST_WINDOWS = 8  # of held-out text: with fewer no judge can be trained on one half and tested on the other
PROMPT_BYTES = 48  # of real text before a window: about the same for every tokenizer and context, so figures compare
BYTES_PER_TOKEN = {
    "bytes": 1.0,
    "chars": 4.0,
    "bpe": 4.0,
    "gpt2": 6.0,
    "pretrained": 6.0,
}  # hardly more in any language
LEAST_CONTEXT, LEAST_BLOCK, LEAST_WINDOW = 8, 64, 16  # of model.block_size, data.block_bytes, judging.window
MOST_TEXT = 10**9  # bytes; if that were not enough, more text is no remedy


class Room(Protocol):
    """What a split holds."""

    @property
    def bytes(self) -> int: ...

    @property
    def tokens(self) -> int: ...

    def windows(self, width: int, prompt: int, most_bytes: int) -> int:
        """How many windows of `width` bytes fit after `prompt` tokens into its first bytes; FEWEST_WINDOWS at most."""


@dataclass(frozen=True)
class Estimated:
    """From the size of a split and an average number of bytes per token; at 1 no split holds more."""

    bytes: int
    bytes_per_token: float

    @property
    def tokens(self) -> int:
        return int(self.bytes / self.bytes_per_token)

    def windows(self, width: int, prompt: int, most_bytes: int) -> int:
        left = min(self.bytes, most_bytes) - prompt * self.bytes_per_token
        return min(FEWEST_WINDOWS, int(left / (width + self.bytes_per_token - 1)))


Rooms = Mapping[Split, Room]


def prompt_length(bytes_per_token: float, block_size: int) -> int:
    """Tokens of real text that a model continues: PROMPT_BYTES on average, at most half its context."""
    return max(1, min(round(PROMPT_BYTES / bytes_per_token), block_size // 2))


def check_bytes(n_bytes: int, params: Params) -> None:
    """Raise CorpusError, with values that help, if a text of so many bytes cannot go through every stage."""
    block_bytes, bytes_per_token = params.data.block_bytes, BYTES_PER_TOKEN[params.tokens.kind]
    if n_bytes < CYCLE * block_bytes:
        fault: str | None = f"fewer than {CYCLE} blocks of data.block_bytes={block_bytes}"
    elif _is_certain(params, n_bytes):
        fault = _fault(params, _estimated(n_bytes, block_bytes, 1.0))
    else:
        return
    fits, block = _smaller(params, _estimated(n_bytes, block_bytes, bytes_per_token)), {}
    if n_bytes // CYCLE < block_bytes or not fits:
        lower = max(LEAST_BLOCK, min(block_bytes, n_bytes // CYCLE))
        fits, block = _smaller(params, _estimated(n_bytes, lower, bytes_per_token)), {"data.block_bytes": lower}
    fits = block | fits if fits is not None and n_bytes >= CYCLE * LEAST_BLOCK else None
    raise CorpusError(f"the text has {n_bytes} bytes, {fault}; {_advice(params, bytes_per_token, fits)}")


def check_tokens(params: Params, data: "TokenDataset") -> None:
    """The same from the tokens. Raises ArtifactError if those of a split are missing."""
    from troupe.data.dataset import MeasuredRoom, token_bytes

    bytes_of_token, sizes = token_bytes(data.tokenizer), data.n_bytes
    rooms = {split: MeasuredRoom(sizes[split], data.shards(split), bytes_of_token) for split in sizes}
    if fault := _fault(params, rooms):
        bytes_per_token = max(sizes[split] / max(1, data.n_tokens[split]) for split in sizes)
        advice = _advice(params, 1.1 * bytes_per_token, _smaller(params, rooms))
        raise CorpusError(f"the text has {sum(sizes.values())} bytes, {fault}; {advice}")


def _is_certain(params: Params, n_bytes: int) -> bool:
    """Whether no text of so many bytes is enough, wherever its characters and its tokens end."""
    most = _estimated(n_bytes, params.data.block_bytes, 1.0, moved=LONGEST_CHARACTER - 1)
    return _fault(params, most, None if params.tokens.kind == "bytes" else 1) is not None


def _fault(params: Params, rooms: Rooms, prompt: int | None = None) -> str | None:
    """Which stage finds too little text in which split, in the order in which they would.

    `prompt` tokens stand before the judges' windows; None: as many as the mean length of a token makes of PROMPT_BYTES.
    """
    context, judging = params.model.block_size, params.judging
    wanted: dict[Split, int] = {"train": context + 1}
    for method in params.adversarial.active().values():
        length = context
        if isinstance(method, RefinementParams):
            length = method.prompt_length + method.sequence_length
        needed: dict[Split, int] = dict.fromkeys(("critic", "validation"), length + 1)
        wanted |= {split: max(wanted.get(split, 0), n) for split, n in needed.items()}
    for split, n in wanted.items():
        if (there := rooms[split].tokens) < n:
            return f"of which the {split} split holds {there} tokens where model.block_size={context} needs {n}"
    train = rooms["train"]
    prompt = prompt or prompt_length(train.bytes / train.tokens, context)
    for split in ("validation", "test"):
        windows = rooms[split].windows(judging.window, prompt, judging.held_out_bytes)
        if windows < FEWEST_WINDOWS:
            return _too_few(split, windows, f"judging.window={judging.window} bytes")
    return None


def _too_few(split: str, windows: int, of: str) -> str:
    return f"of which the {split} split holds {max(0, windows)} windows of {of} where judges need {FEWEST_WINDOWS}"


def _estimated(n_bytes: int, block_bytes: int, bytes_per_token: float, moved: int = 0) -> Rooms:
    """What the splits hold whose blocks each end `moved` bytes later than cut."""
    cycles, rest = divmod(n_bytes, CYCLE * block_bytes)
    sizes: dict[Split, int] = {}
    for place in range(CYCLE):
        last = min(block_bytes, max(0, rest - place * block_bytes))
        size = cycles * (block_bytes + moved) + (last + moved if last else 0)
        sizes[split_of(place)] = sizes.get(split_of(place), 0) + size
    return {split: Estimated(size, bytes_per_token) for split, size in sizes.items()}


def _advice(params: Params, bytes_per_token: float, smaller: Mapping[str, int] | None) -> str:
    remedies, block_bytes = [], params.data.block_bytes
    cycles = 1
    while cycles * CYCLE * block_bytes <= MOST_TEXT:
        if not _fault(params, _estimated(cycles * CYCLE * block_bytes, block_bytes, bytes_per_token)):
            remedies.append(f"bring at least {cycles * CYCLE * block_bytes} bytes")
            break
        cycles += max(1, cycles // 8)
    if smaller:
        line = " ".join(f"{name}={value}" for name, value in smaller.items())
        remedies.append(f'lower what needs so much: SET="{line}"')
    return ", or ".join(remedies) or "raise judging.held_out_bytes"


def _smaller(params: Params, rooms: Rooms) -> dict[str, int] | None:
    """The values to lower, and to what, so that the text is enough; None if nothing helps."""
    least = min(rooms[split].tokens for split in ("train", "critic", "validation")) - 1
    context = min(params.model.block_size, least)
    while context >= LEAST_CONTEXT:
        lower = _with_context(params, context)
        for window in range(params.judging.window, LEAST_WINDOW - 1, -1):
            if not (fault := _fault(_changed(params, lower | {"judging.window": window}), rooms)):
                return _differing(params, lower | {"judging.window": window})
            if "judging.window" not in fault:
                break
        context = context * 3 // 4
    return None


def _with_context(params: Params, context: int) -> dict[str, int]:
    """A context, and what must fit into it, in the proportions that it has now."""
    before, lower = params.model.block_size, {"model.block_size": context}
    for name, method in params.adversarial.active().items():
        for length in (field for field in ("prompt_length", "sequence_length") if field in type(method).model_fields):
            lower[f"adversarial.{name}.{length}"] = max(1, getattr(method, length) * context // before)
    return lower | {"evaluate.stride": max(1, min(params.evaluate.stride, context // 2))}


def _changed(params: Params, values: Mapping[str, int]) -> Params:
    """With other values, which are not checked."""
    changed = params
    for name, value in values.items():
        changed = _with_value(changed, name.split("."), value)
    return changed


def _with_value(section: Any, path: Sequence[str], value: int) -> Any:
    name, *below = path
    return section.model_copy(update={name: _with_value(getattr(section, name), below, value) if below else value})


def _differing(params: Params, values: Mapping[str, int]) -> dict[str, int]:
    return {name: value for name, value in values.items() if attrgetter(name)(params) != value}
