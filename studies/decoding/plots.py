"""The picture of the decoding study: how likely texts are against how varied, with real text as the target."""

from matplotlib.figure import Figure

from studies.core.statistics import Results, over
from studies.decoding.arms import REAL
from troupe.evaluation.plots import GREY

SIZE = (9.4, 9.0)  # inches
KINDS = {  # what a strategy's name begins with: its colour
    "greedy": "#8c4bb0",
    "temperature": "#2f7fd0",
    "top-k": "#d9822b",
    "top-p": "#1f9e89",
    "min-p": "#c2405a",
    "repetition": "#7a6a1f",
}


def draw(results: Results) -> Figure:
    """Above, bits per byte over distinct 4-grams; below, detection accuracy with its intervals."""
    figure = Figure(figsize=SIZE, layout="constrained")
    plane, bars = figure.subplots(2, 1, height_ratios=[1.2, 1])
    for name, runs in results.items():
        x, y = over(runs, "distinct_4").mean, over(runs, "bits").mean
        if name == REAL:
            plane.scatter(x, y, marker="*", s=220, color=GREY, label="real text", zorder=3)
        else:
            plane.scatter(x, y, color=colour(name), s=30)
        plane.annotate(name, (x, y), xytext=(5, 4), textcoords="offset points", fontsize=8)
    plane.set(xlabel="distinct-4: varied to the right", ylabel="bits per byte, independent model: likely below")
    plane.set_title("likelihood against diversity; the star is the target")
    names = list(results)
    found = [over(results[name], "detection") for name in names]
    places = range(len(names))
    colours = [GREY if name == REAL else colour(name) for name in names]
    bars.barh(places, [one.mean for one in found], xerr=[one.half or 0.0 for one in found], color=colours)
    bars.set_yticks(places, names, fontsize=8)
    bars.invert_yaxis()
    bars.axvline(over(results[REAL], "detection").mean, color=GREY, linewidth=0.8, linestyle=(0, (2, 3)))
    bars.set(xlim=(0.4, 1.0), title="detection accuracy, worst classifier; dotted: real text against real text")
    return figure


def colour(name: str) -> str:
    """By the kind of the strategy."""
    return next((shade for kind, shade in KINDS.items() if name.startswith(kind)), GREY)
