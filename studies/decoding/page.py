"""The page of the decoding study, from the figures of its jobs."""

from collections.abc import Iterator, Mapping

from studies.core.page import sections_of, table
from studies.core.statistics import Results, estimate, less, over
from studies.decoding.arms import REAL
from studies.decoding.model import Studied
from studies.decoding.settings import Settings

FIGURES: Mapping[str, tuple[str, str]] = {  # heading and format of each column
    "detection": ("detection accuracy", ".3f"),
    "bits": ("bits per byte, independent model", ".3f"),
    "repetition_4": ("repeated 4-grams", ".3f"),
    "distinct_1": ("distinct-1", ".3f"),
    "distinct_4": ("distinct-4", ".3f"),
    "self_bleu_3": ("self-BLEU-3", ".3f"),
    "similarity": ("similarity", ".3f"),
}
NOTES = [
    "Real text is what every figure but tokens/s is to be near to; its row compares it with other real text.",
    "Detection accuracy: of the worst family of classifiers, trained on two stretches of the text, tested on the third "
    "(0.5 is guessing). It depends on how many texts there are, and is that of these classifiers, not of a reader.",
    "Bits per byte of the texts under a Kneser-Ney model counted on other held-out text: low is likely. Repeated "
    "4-grams: the share of word 4-grams that the same text held before. Distinct-n: different word n-grams over all. "
    "Self-BLEU-3: how alike the texts are. Similarity: the area under MAUVE's divergence frontier, in counted "
    "character n-grams (studies/decoding/frontier.py); 1 is alike.",
    "tokens/s: of the texts that are kept, on one thread, many side by side; what is drawn beyond their end costs "
    "time too.",
    "± is the half width of a 95 % interval over seeds (Student's t). All on validation text; no test text is read.",
]


def best(results: Results) -> str:
    """The strategy that is detected least; of those that are not clearly detected more, whose texts are most similar to
    real ones. Without a second seed nothing but an equal accuracy is as good."""
    names = [name for name in results if name != REAL]
    least = min(names, key=lambda name: over(results[name], "detection").mean)

    def as_good(name: str) -> bool:
        change = less(results, name, least, lambda run: float(run["detection"]))
        return change.mean - (change.half or 0.0) <= 0

    return max(filter(as_good, names), key=lambda name: over(results[name], "similarity").mean)


def sections(name: str, settings: Settings, model: str, studied: Studied, results: Results) -> Iterator[str]:
    """The page, below its head, in Markdown; its picture is <name>.svg. `model` is how the model is called."""
    parts = {
        "Every strategy beside real text": _figures(results),
        "One prompt": _texts(settings, results),
    }
    picture = "Likelihood against diversity of every strategy, and real text"
    yield from sections_of(name, verdict(model, studied, results), picture, parts, NOTES)


def verdict(model: str, studied: Studied, results: Results) -> list[str]:
    """The recommended strategy, and whether it is detected less than the model's own distribution."""
    chosen = best(results)
    own = next((name for name in results if name == "temperature 1.0"), chosen)
    change = less(results, chosen, own, lambda run: float(run["detection"]))
    clear = change.half is not None and change.mean + change.half < 0
    found = over(results[chosen], "detection")
    return [
        f"Model: {model}, sha256 {studied.identity[:12]}"
        + ("; trained on other text, so what is held out here it may know" if studied.has_seen_other_text else ""),
        f"Recommended: **{chosen}**, the most similar to real text of those that are not clearly detected more than "
        f"the least detected: accuracy {found:.3f}; real text against real {over(results[REAL], 'detection'):.3f}",
        f"Against {own}: {change:+.3f}, {'detected less' if clear else 'no clear difference'}",
    ]


def _figures(results: Results) -> str:
    rows = {}
    for name, runs in results.items():
        speeds = [run["tokens_per_second"] for run in runs if run["tokens_per_second"]]
        cells = [f"{over(runs, figure):{form}}" for figure, (_, form) in FIGURES.items()]
        rows[name] = [*cells, f"{estimate(speeds).mean:,.0f}" if speeds else ""]
    return table("strategy", [*(heading for heading, _ in FIGURES.values()), "tokens/s"], rows)


def _texts(settings: Settings, results: Results) -> str:
    shown = "\n\n".join(f"{name}:\n\n{_quoted(results[name][0]['shown'])}" for name in settings.strategies)
    return f"{settings.shown_tokens} tokens, first seed.\n\n{shown}"


def _quoted(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.splitlines() or [""])
