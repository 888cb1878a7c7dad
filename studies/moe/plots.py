"""The picture of the study of attention experts: test loss against three costs, and the loss after the switch."""

from collections.abc import Callable

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from studies.core.jobs import Figures
from studies.core.statistics import Results, over
from studies.moe.settings import Settings
from studies.moe.verdict import macs
from troupe.inspection.attention import FLOAT32

SIZE = (9.4, 6.8)  # inches
COLOURS = colormaps["tab10"].colors  # type: ignore[attr-defined]


def draw(settings: Settings, results: Results) -> Figure:
    """Four panels; an arm has one colour in all of them."""
    context = settings.model.block_size
    against: dict[str, Callable[[Figures], float]] = {
        "attention MACs per token (useful, causal)": macs,
        "parameters": lambda run: run["parameters"],
        "attention memory per token, bytes": lambda run: run["attention"]["memory_floats"] * FLOAT32 / context,
    }
    colours = {name: COLOURS[place % len(COLOURS)] for place, name in enumerate(settings.arms)}
    figure = Figure(figsize=SIZE, layout="constrained")
    *panels, last = figure.subplots(2, 2).flat
    for axes, (label, cost) in zip(panels, against.items(), strict=True):
        axes.set(xlabel=label, ylabel="test loss, nats per token")
        for name, colour in colours.items():
            loss = over(results[name], "test", "loss")
            axes.errorbar(cost(results[name][0]), loss.mean, yerr=loss.half, fmt="o", color=colour, label=name)
        axes.set_xlim(left=0)  # so that a share of the cost is a share of the way
        axes.xaxis.set_major_formatter(EngFormatter())
    after_the_switch(last, settings, results, colours)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure


def after_the_switch(axes: Axes, settings: Settings, results: Results, colours: dict[str, object]) -> None:
    """Loss less the loss of before the switch, mean over seeds, of the arms that start from the pretrained model."""
    for name in (name for name, arm in settings.arms.items() if arm.start == "pretrained"):
        looks = zip(*(run["continued"]["looks"] for run in results[name]), strict=True)
        before = over(results[name], "before").mean
        points = [(of_step[0]["step"], over(of_step, "loss").mean - before) for of_step in looks]
        axes.plot(*zip(*points, strict=True), color=colours[name], marker="o", markersize=2.5, clip_on=False)
    axes.axhline(0.0, color="#8b919c", linewidth=0.8)
    axes.set_xscale("symlog", linthresh=1)
    axes.set_xlim(left=0)
    axes.set_yscale("symlog", linthresh=0.1)  # a fresh start costs nats, the differences that matter hundredths
    axes.xaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set(xlabel="steps after the switch", ylabel="loss above that before, nats per token")
