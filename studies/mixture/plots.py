"""The picture of the mixture: bits per byte after each part, a line per text."""

from matplotlib.figure import Figure

from studies.core.statistics import Results, over
from studies.mixture.arms import BLOCK, COUNTED_TOO, NETWORK, PARTS
from troupe.evaluation.plots import GREY

SIZE = (9.4, 4.2)  # inches
LINE = [NETWORK, *PARTS, COUNTED_TOO, BLOCK]
COLOURS = ("#2f7fd0", "#d9822b", "#1f9e89")


def draw(results: Results) -> Figure:
    """Means over seeds with their intervals; xz as dotted lines."""
    figure = Figure(figsize=SIZE, layout="constrained")
    panel = figure.add_subplot()
    for number, (text, runs) in enumerate(results.items()):
        found = [over(runs, "bits", part) for part in LINE]
        colour, halves = COLOURS[number % len(COLOURS)], [one.half or 0.0 for one in found]
        panel.errorbar(range(len(LINE)), [one.mean for one in found], yerr=halves, color=colour, marker="o", label=text)
    panel.set_xticks(range(len(LINE)), [part.replace(" of ", "\nof ") for part in LINE], fontsize=8)
    panel.set_ylabel("bits per byte of test text")
    panel.grid(axis="y", color=GREY, alpha=0.3)
    panel.legend()
    return figure
