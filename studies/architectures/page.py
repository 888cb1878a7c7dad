"""The page of the study of architectures, from the figures of its jobs."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from studies.architectures.families import FAMILIES
from studies.architectures.settings import Settings
from studies.core.jobs import Figures
from studies.core.page import bullets, sections_of, table
from studies.core.statistics import Estimate, Results, estimate, over

NOTES = [
    "All four have the same text, tokens, windows, steps and, within 5 %, parameters; each has the objective that it "
    "was published with. ± is the half width of a 95 % interval over seeds (Student's t).",
    "A claim: confirmed where the whole interval of the difference, paired by seed, lies on the side it names, refuted "
    "where it lies on the other, unclear where it holds 0.",
    "Continuation: bits per byte of the second half of each window given the first. BERT defines none: its "
    "pseudo-likelihood, every word given all others, is no probability and compares with nothing here. BART and T5 "
    "have been trained on gaps of a few words, here one of half a window is asked of them: no claim rests on it.",
    "A blank: one word of a window is missing; the share of windows where the likeliest word is the right one. GPT-2 "
    "ranks all words by the likelihood of the whole window, or sees the left alone; BART and T5 have been trained on "
    "longer gaps alone. A span: the share of the words of "
    "a gap that are right.",
    "MACs and milliseconds per token that is written, with caches, on one thread; the prompt's own cost is shared out.",
    "Dependences are measured on the trained models: an input is changed, and the outputs that change are drawn.",
]


class Claim(NamedTuple):
    """That a figure of one architecture less that of another lies below (-1) or above (+1) zero."""

    text: str
    of: str
    figure: Callable[[Figures], float]
    against: str
    other: Callable[[Figures], float]
    side: int


def _task(name: str) -> Callable[[Figures], float]:
    return lambda run: float(run["tasks"][name])


def _writing(name: str) -> Callable[[Figures], float]:
    return lambda run: float(run["writing"][-1][name])


def _step(run: Figures) -> float:
    return float(run["seconds_per_step"])


CLAIMS = (
    Claim(
        "BERT fills a blank better than GPT-2 that sees the left alone.",
        *("BERT", _task("blank"), "GPT-2", _task("blank_from_left"), 1),
    ),
    Claim(
        "BERT fills a blank better than GPT-2 that ranks all words.",
        *("BERT", _task("blank"), "GPT-2", _task("blank"), 1),
    ),
    Claim("BART fills a span better than GPT-2.", "BART", _task("span"), "GPT-2", _task("span"), 1),
    Claim("T5 fills a span better than BERT.", "T5", _task("span"), "BERT", _task("span"), 1),
    Claim("A step of T5's training takes less time than one of BART's.", "T5", _step, "BART", _step, -1),
    Claim(
        "BART, half of whose layers read, writes a token with fewer MACs than GPT-2.",
        *("BART", _writing("macs"), "GPT-2", _writing("macs"), -1),
    ),
    Claim(
        "BART, half of whose layers read, writes a token in less time than GPT-2.",
        *("BART", _writing("ms"), "GPT-2", _writing("ms"), -1),
    ),
)


def sections(name: str, settings: Settings, results: Results) -> Iterator[str]:
    """The page, below its head, in Markdown; its picture is <name>.svg."""
    parts = {
        "Tasks": _tasks(results),
        "Made of": _parts(results),
        "What writing costs": _costs(results),
        "What each can and cannot": _abilities(),
        "Structure": _structure(results),
    }
    picture = "What outputs depend on, tasks, time per token, training loss"
    yield from sections_of(name, verdict(results), picture, parts, NOTES)


def verdict(results: Results) -> list[str]:
    """A line per claim."""
    lines = []
    for claim in CLAIMS:
        change = difference(claim, results)
        lines.append(f"**{judged(change, claim.side)}**: {claim.text} ({change:+.3g})")
    return lines


def difference(claim: Claim, results: Results) -> Estimate:
    """Paired by seed."""
    pairs = zip(results[claim.of], results[claim.against], strict=True)
    return estimate([claim.figure(ours) - claim.other(theirs) for ours, theirs in pairs])


def judged(change: Estimate, side: int) -> str:
    """By the rule of the notes."""
    if change.half is None or abs(change.mean) <= change.half:
        return "unclear"
    return "confirmed" if change.mean * side > 0 else "refuted"


def _tasks(results: Results) -> str:
    rows = {}
    for name, runs in results.items():
        cells = [_cell(runs, task) for task in ("continuation", "pseudo", "blank", "blank_from_left", "span")]
        rows[name] = [*cells, f"{over(runs, 'seconds_per_step'):.3f}"]
    columns = ["continuation, bpb", "pseudo, bpb", "blank", "blank, left alone", "span", "s per step"]
    return table("architecture", columns, rows)


def _cell(runs: Sequence[Figures], task: str) -> str:
    values = [run["tasks"][task] for run in runs]
    return "" if None in values else f"{estimate(values):.3f}"


def _parts(results: Results) -> str:
    names = sorted({part for runs in results.values() for part in runs[0]["parts"]})
    rows = {
        name: [f"{runs[0]['parameters']:,}", *(f"{runs[0]['parts'].get(part, 0):,}" for part in names)]
        for name, runs in results.items()
    }
    return table("architecture", ["parameters", *names], rows)


def _costs(results: Results) -> str:
    rows = {}
    for name, runs in results.items():
        cells = []
        for place in range(len(runs[0]["writing"])):
            cells += [
                f"{estimate([run['writing'][place]['ms'] for run in runs]):.2f}",
                f"{runs[0]['writing'][place]['macs'] / 1e6:.2f} M",
            ]
        rows[name] = cells or ["", ""] * len(next(iter(results.values()))[0]["writing"])
    lengths = [cost["length"] for cost in next(iter(results.values()))[0]["writing"]]
    return table("architecture", [f"{length} tokens, {what}" for length in lengths for what in ("ms", "MACs")], rows)


def _abilities() -> str:
    return bullets(
        f"**{name}**: attention is {family.attention}; "
        + ("it writes word after word." if family.generates else "it writes no text of its own: it only fills gaps.")
        for name, family in FAMILIES.items()
    )


def _structure(results: Results) -> str:
    return "\n\n".join(
        f"{name}:\n\n" + "\n".join(f"    {line}" for line in runs[0]["structure"].splitlines())
        for name, runs in results.items()
    )
