"""The page of the mixture, from the figures of its jobs."""

from collections.abc import Iterator

from studies.core.page import bar, sections_of, table
from studies.core.statistics import Results, estimate, over
from studies.mixture.arms import ALONE, BLOCK, BLOCK_ALONE, COUNTED_TOO, NETWORK, PARTS
from studies.mixture.settings import Settings

ROWS = [NETWORK, *PARTS, COUNTED_TOO, BLOCK, ALONE, BLOCK_ALONE]
NOTES = [
    "Bits per byte of the whole test text; ± is the half width of a 95 % interval over seeds (Student's t). Of two "
    "seeds it is wide. Each row adds to the one before it, but the two without a network stand beside: the n-grams "
    "take its place there.",
    "Up to `text of the context` a token is predicted from the window that the network reads, of 64 to 128 tokens. "
    "`text of the block` reads the counts of all of the block so far, on average half of it, and ends at its border; "
    "the network reads its window.",
    "Every mixture is fitted anew to the critic's text, which neither network nor counts have seen. With `critic's "
    "text counted` and in all rows after it that text is counted too once the fit is done.",
    "xz: what test text adds to the training text, 8 (|xz(train + test)| - |xz(train)|) / |test|.",
    "Times are of one thread of processor.",
]


def sections(name: str, settings: Settings, results: Results) -> Iterator[str]:
    """The page, below its head, in Markdown; its picture is <name>.svg."""
    parts = {"Part by part": _parts(results), "Costs": _costs(results)}
    yield from sections_of(name, verdict(settings, results), "Bits per byte after each part", parts, NOTES)


def verdict(settings: Settings, results: Results) -> Iterator[str]:
    """The bars of the configuration, by the means over seeds."""
    for text, bars in settings.bars.items():
        for row, at_most in bars.items():
            yield bar(f"{text}, {row}", over(results[text], "bits", row).mean, at_most, ".3f")


def _parts(results: Results) -> str:
    rows = {}
    for row in ROWS:
        cells = []
        for runs in results.values():
            before = ROWS[ROWS.index(row) - 1] if row.startswith("+") else None
            change = before and estimate([run["bits"][row] - run["bits"][before] for run in runs])
            cells += [f"{over(runs, 'bits', row):.3f}", f"{change:+.3f}" if change else ""]
        rows[row] = cells
    rows["xz -9e"] = [cell for runs in results.values() for cell in (f"{over(runs, 'xz').mean:.3f}", "")]
    return table("part", [cell for text in results for cell in (text, "change")], rows)


def _costs(results: Results) -> str:
    rows = {
        text: [
            f"{runs[0]['learned']:,}",
            f"{runs[0]['counted_bytes'] / 1e6:.1f}",
            f"{over(runs, 'fit_seconds').mean:.1f}",
            *(f"{over(runs, 'token_ms', model).mean:.2f}" for model in ("network", "mixture")),
        ]
        for text, runs in results.items()
    }
    columns = ["numbers fitted", "counts, MB", "a fit, s", "network, ms per token", "mixture, ms per token"]
    return table("text", columns, rows)
