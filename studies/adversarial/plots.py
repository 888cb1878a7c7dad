"""The picture of the study of adversarial refinement: every arm's worst classifier, and the curves over temperature."""

from collections.abc import Callable, Sequence
from functools import partial
from statistics import fmean

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from studies.adversarial.arms import CONTROLS
from studies.adversarial.page import DIVERSITY, QUALITY, accuracies, has_curve, points
from studies.adversarial.settings import Settings
from studies.adversarial.verdict import accuracy, worst
from studies.core.jobs import Figures
from studies.core.statistics import Results, estimate, over
from troupe.evaluation.plots import GREY

SIZE = (9.4, 9.2)  # inches
Pairs = Sequence[tuple[float, float]]


def draw(settings: Settings, results: Results) -> Figure:
    """Three panels; an arm has one colour in all of them."""
    palette = colormaps["tab20"].colors  # type: ignore[attr-defined]
    colours = {name: palette[place % len(palette)] for place, name in enumerate(settings.arms)}
    figure = Figure(figsize=SIZE, layout="constrained")
    grid = figure.add_gridspec(2, 2)
    bars = figure.add_subplot(grid[0, :])
    judged(bars, results, colours)
    over_temperature = figure.add_subplot(grid[1, 0])
    over_temperature.set(xlabel="temperature", ylabel=f"worst accuracy of {', '.join(settings.judging.few)}")
    lines(over_temperature, results, colours, partial(accuracies, settings))
    against = figure.add_subplot(grid[1, 1])
    against.set(xlabel=f"{DIVERSITY} (less is more diverse)", ylabel="bits per byte of the texts")
    lines(against, results, colours, lambda run: [(point.diversity, point.quality) for point in points(run)])
    real = (over([run["real"] for run in results[CONTROLS]], figure_).mean for figure_ in (DIVERSITY, QUALITY))
    against.plot(*real, marker="*", color=GREY, markersize=11, linestyle="", label="real text")
    figure.legend(*against.get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure


def judged(axes: Axes, results: Results, colours: dict[str, object]) -> None:
    """Accuracy of the worst classifier, with intervals over seeds; a line: real text against real text."""
    for place, (name, colour) in enumerate(colours.items()):
        found = estimate([accuracy(run) for run in results[name]])
        axes.errorbar(found.mean, place, xerr=found.half, fmt="o", color=colour)
    axes.set_yticks(range(len(colours)), [*colours])
    axes.invert_yaxis()
    floor = estimate([worst(run["floor"])["accuracy"] for run in results[CONTROLS]])
    axes.axvline(floor.mean, color=GREY, linewidth=0.8)
    axes.annotate(
        "real against real",
        (floor.mean, 1),
        (3, -10),
        xycoords=("data", "axes fraction"),
        textcoords="offset points",
        color=GREY,
    )
    axes.set(xlabel="accuracy of the worst judge, test text; 0.5 is perfect")


def lines(axes: Axes, results: Results, colours: dict[str, object], of_run: Callable[[Figures], Pairs]) -> None:
    """A curve per arm that has one: both coordinates are means over seeds, temperature by temperature."""
    for name, colour in colours.items():
        if has_curve(results[name]):
            by_temperature = zip(*map(of_run, results[name]), strict=True)
            means = [tuple(map(fmean, zip(*of_seeds, strict=True))) for of_seeds in by_temperature]
            axes.plot(*zip(*means, strict=True), marker="o", markersize=3, color=colour, label=name)
