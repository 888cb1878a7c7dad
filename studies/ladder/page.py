"""The page of the ladder, from the figures of its jobs."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from studies.core.page import bullets, sections_of, table
from studies.core.statistics import Estimate, Results, estimate
from studies.ladder.arms import MEASURED
from studies.ladder.rungs import LADDER
from studies.ladder.settings import Settings

NOTES = [
    "Losses: nats per character of the whole validation text, in windows of the recipe's context side by side, after "
    "the last step; ± is the half width of a 95 % interval over seeds (Student's t). Of two seeds it is wide.",
    "A claim compares a rung with the one before it, seed by seed. A loss that should fall: confirmed where the whole "
    "interval lies below 0, refuted where it lies above, unclear where it holds 0. A loss that need not fall: the "
    "other way round.",
    "Published: the losses that a walk-through in twelve steps reports at step 10,000, each of one batch, which is why "
    "they jump. Its batches, context and models are not known to be those here in every detail.",
    "In the project's recipe some rungs have more steps, another optimiser or wider initial weights, as validation "
    "text of seed 1 preferred: they do not differ in the model alone. ladder.yaml has every figure.",
    "Test: of the weights that validation text liked best, by windows that overlap, as the pipeline evaluates; bits "
    "per byte of UTF-8, comparable with every other model of the project.",
    "Seconds are of one thread of processor and of one seed, looks at validation text included. AdamW trains the seeds "
    "of a rung side by side, so its tokens/s are those of all of them.",
    "The last rung is troupe.models.gpt2.GPT: a test holds that both have the same parameters and logits.",
]
COSTS = {"steps": "steps", "seconds": "seconds", "tokens_per_second": "tokens/s"}


@dataclass(frozen=True)
class Ladder:
    """All that the page is made of: by recipe and rung the figures of the seeds, and the rivals' bits per byte."""

    settings: Settings
    results: Mapping[str, Results]
    rivals: Mapping[str, float]

    def losses(self, recipe: str, rung: str) -> list[float]:
        """At the last look at validation, of every seed."""
        return [run["looks"][-1]["loss"] for run in self.results[recipe][rung]]


def sections(name: str, ladder: Ladder) -> Iterator[str]:
    """The page, below its head, in Markdown; its picture is <name>.svg."""
    parts = {
        "The rungs": _rungs(ladder),
        "What each rung adds": _claims(ladder),
        "Beside compressing and counting": _rivals(ladder),
        "Costs": _costs(ladder),
        "By depth": _by_depth(ladder),
        "What they write": _samples(ladder),
    }
    yield from sections_of(name, verdict(ladder), "Losses over training and over the rungs, and depth", parts, NOTES)


def verdict(ladder: Ladder) -> list[str]:
    """How many rungs are below the published losses, by recipe, and whether the ladder falls where it should."""
    lines = []
    for recipe in ladder.results:
        means = [estimate(ladder.losses(recipe, rung.name)).mean for rung in LADDER]
        below = [mean < bar for mean, bar in zip(means, ladder.settings.published, strict=True)]
        missed = ", ".join(rung.name for rung, kept in zip(LADDER, below, strict=True) if not kept)
        missed = f"; not {missed}" if missed else ""
        lines.append(f"{recipe}: {sum(below)} of {len(below)} rungs below the published loss{missed}")
        verdicts = [change_of(ladder, recipe, place)[1] for place in range(1, len(LADDER))]
        counts = ", ".join(f"{verdicts.count(kind)} {kind}" for kind in ("confirmed", "refuted", "unclear"))
        lines.append(f"{recipe}: what the rungs should add: {counts}")
    return lines


def change_of(ladder: Ladder, recipe: str, place: int) -> tuple[Estimate, str]:
    """The loss of a rung less that of the one before, paired by seed, and what becomes of its sentence."""
    rung, before = LADDER[place], LADDER[place - 1]
    pairs = zip(ladder.losses(recipe, rung.name), ladder.losses(recipe, before.name), strict=True)
    change = estimate([ours - theirs for ours, theirs in pairs])
    return change, judged(change, rung.lowers)


def judged(change: Estimate, lowers: bool) -> str:
    """By the rule of the notes; without an interval everything is unclear."""
    if change.half is None:
        return "unclear"
    falls, rises = change.mean + change.half < 0, change.mean - change.half > 0
    if not falls and not rises:
        return "unclear"
    return "confirmed" if falls == lowers else "refuted"


def _rungs(ladder: Ladder) -> str:
    rows = {}
    for place, (rung, published) in enumerate(zip(LADDER, ladder.settings.published, strict=True), start=1):
        cells: list[str] = [f"{published:.2f}"]
        for recipe, results in ladder.results.items():
            runs = results[rung.name]
            fault = next((run["diverged"] for run in runs if run["diverged"]), None)
            cells += ["diverged" if fault else f"{estimate(ladder.losses(recipe, rung.name)):.3f}"]
            cells += [f"{estimate([run['test']['bpb'] for run in runs]):.3f}"]
        rows[f"{place} {rung.name}"] = cells
    columns = ["published", *(f"{recipe}, {what}" for recipe in ladder.results for what in ("loss", "test bpb"))]
    return table("rung", columns, rows)


def _claims(ladder: Ladder) -> str:
    lines = []
    for place, rung in enumerate(LADDER):
        found = [
            f"{recipe} {change:+.3f}, {kind}"
            for recipe in ladder.results
            if place
            for change, kind in [change_of(ladder, recipe, place)]
        ]
        lines.append(
            f"**{place + 1} {rung.name}.** {rung.adds}{' Measured: ' + '; '.join(found) + '.' if found else ''}"
        )
    return bullets(lines)


def _rivals(ladder: Ladder) -> str:
    rows = {name: [f"{bits:.3f}"] for name, bits in ladder.rivals.items()}
    for recipe, results in ladder.results.items():
        best = min(LADDER, key=lambda rung: estimate([run["looks"][-1]["bpb"] for run in results[rung.name]]).mean)
        rows[f"{best.name}, {recipe}"] = [f"{estimate([run['test']['bpb'] for run in results[best.name]]):.3f}"]
    return (
        "Of each recipe the rung that validation text likes best; compressors and counting have read the training "
        f"text.\n\n{table('predictor', ['test, bits per byte'], rows)}"
    )


def _costs(ladder: Ladder) -> str:
    first = next(iter(ladder.results.values()))
    rows = {
        rung.name: [
            f"{first[rung.name][0]['parameters']:,}",
            *(
                f"{estimate([run[what] for run in results[rung.name]]).mean:,.0f}"
                for results in ladder.results.values()
                for what in COSTS
            ),
        ]
        for rung in LADDER
    }
    columns = [f"{recipe}, {what}" for recipe in ladder.results for what in COSTS.values()]
    return table("rung", ["parameters", *columns], rows)


def _by_depth(ladder: Ladder) -> str:
    recipe = next(iter(ladder.results))
    rows = {}
    for rung in LADDER[1:]:
        depth = ladder.results[recipe][rung.name][0]["depth"]
        rows[rung.name] = [_line(depth[when][what]) for what in ("gradient", "activation") for when in ("start", "end")]
    columns = [f"{what}, {when}" for what in ("gradient", "activation") for when in ("before", "after training")]
    return (
        f"Of the embedding and then of each block, recipe {recipe}, first seed: the L2 norm of its gradient, and the "
        f"root mean square of what it puts out, on {MEASURED} sequences of training text. The embedding is the head "
        "too, and so is its gradient.\n\n"
        f"{table('rung', columns, rows)}"
    )


def _line(values: Sequence[float]) -> str:
    return " ".join(f"{value:.2g}" for value in values)


def _samples(ladder: Ladder) -> str:
    recipe = list(ladder.results)[-1]
    texts = {rung.name: ladder.results[recipe][rung.name][0]["sample"] for rung in LADDER}
    shown = "\n\n".join(f"{name}:\n\n{_quoted(text)}" for name, text in texts.items())
    return f"Recipe {recipe}, first seed, temperature 1, after {ladder.settings.prompt!r}.\n\n{shown}"


def _quoted(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.splitlines())
