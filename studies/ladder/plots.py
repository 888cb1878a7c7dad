"""The picture of the ladder: all rungs' curves in one, their last losses, and gradients and activations by depth."""

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from studies.core.statistics import estimate
from studies.ladder.page import Ladder
from studies.ladder.rungs import LADDER
from troupe.evaluation.plots import GREY

SIZE = (9.4, 10.2)  # inches
COLOURS = dict(
    zip((rung.name for rung in LADDER), (colormaps["tab20"](place / 19) for place in range(12)), strict=True)
)


def draw(ladder: Ladder) -> Figure:
    """A row of validation curves, a column per recipe; the rungs' losses beside the published; depth at the start."""
    figure = Figure(figsize=SIZE, layout="constrained")
    recipes = list(ladder.results)
    grid = figure.add_gridspec(3, 2 * len(recipes))
    curves = [figure.add_subplot(grid[0, 2 * place : 2 * place + 2]) for place in range(len(recipes))]
    for panel, recipe in zip(curves, recipes, strict=True):
        _curves(panel, ladder, recipe)
    _rungs(figure.add_subplot(grid[1, :]), ladder)
    for place, what in enumerate(("gradient", "activation")):
        _depth(figure.add_subplot(grid[2, place * len(recipes) : (place + 1) * len(recipes)]), ladder, what)
    figure.legend(*curves[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure


def _curves(panel: Axes, ladder: Ladder, recipe: str) -> None:
    """Training loss as a thin line, looks at validation of the first seed as dots joined by a thick one."""
    for rung in LADDER:
        run = ladder.results[recipe][rung.name][0]
        panel.plot(*zip(*run["training"], strict=True), color=COLOURS[rung.name], linewidth=0.5, alpha=0.6)
        looks = [(look["step"], look["loss"]) for look in run["looks"]]
        panel.plot(*zip(*looks, strict=True), color=COLOURS[rung.name], marker="o", markersize=2.5, label=rung.name)
    lowest = min(look["loss"] for runs in ladder.results.values() for of in runs.values() for look in of[0]["looks"])
    panel.set(title=f"{recipe}: loss, nats per character", xlabel="steps", ylim=(lowest - 0.1, 3.2))


def _rungs(panel: Axes, ladder: Ladder) -> None:
    """The last losses, with intervals, and the published ones."""
    places = range(1, len(LADDER) + 1)
    panel.plot(places, ladder.settings.published, color=GREY, linestyle=":", marker="x", label="published, one batch")
    for number, recipe in enumerate(ladder.results):
        found = [estimate(ladder.losses(recipe, rung.name)) for rung in LADDER]
        halves = [one.half or 0.0 for one in found]
        colour = ("#2f7fd0", "#d9822b", "#1f9e89")[number % 3]
        panel.errorbar(places, [one.mean for one in found], yerr=halves, color=colour, marker="o", label=recipe)
    panel.set_xticks(places, [rung.name.replace(" ", "\n") for rung in LADDER], fontsize=8)
    panel.set_title("validation loss after the last step, nats per character")
    panel.legend()


def _depth(panel: Axes, ladder: Ladder, what: str) -> None:
    """Before training, from the embedding (0) to the last block."""
    runs = next(iter(ladder.results.values()))
    for rung in LADDER[1:]:
        values = runs[rung.name][0]["depth"]["start"][what]
        panel.plot(range(len(values)), values, color=COLOURS[rung.name], marker="o", markersize=2.5)
    panel.set(yscale="log", xlabel="block (0: embedding)", title=f"{what} before training, by depth")
    panel.set_xticks(range(7))
