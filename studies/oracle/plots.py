"""The picture of the oracle study: NLL_oracle against NLL_test over temperature, measured and published."""

from collections.abc import Mapping

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from studies.core.statistics import Results, estimate
from studies.oracle.curves import Curve, Point, curves_of, lowest, mean_curve
from studies.oracle.settings import LIKELIHOOD, Settings
from troupe.evaluation.plots import GREY

COLOURS = ("#2f7fd0", "#d9822b", "#1f9e89", "#b0489a")  # apart for any eyes
SIZE = (9.6, 5.0)  # inches
ABOVE = 4.0  # nats of NLL_test above the lowest curve that are shown


def draw(settings: Settings, results: Results) -> Figure:
    """Beside each other, on the same axes: this study's arms, and the published curves on SeqGAN's oracle."""
    figure = Figure(figsize=SIZE, layout="constrained")
    ours, published = figure.subplots(1, 2, sharex=True, sharey=True)
    measured = {name: mean_curve(curves_of(results, name)) for name in results}
    _curves(ours, measured, estimate([one["floor"] for one in results[LIKELIHOOD]]).mean)
    for name, colour in zip(results, COLOURS, strict=False):
        _path(ours, results, name, colour)
    ours.set(title="this oracle", xlabel="NLL_oracle, nats per token", ylabel="NLL_test, nats per token")
    theirs = {name: [Point(*point) for point in curve.points] for name, curve in settings.published.curves.items()}
    _curves(published, theirs, settings.published.floor)
    published.set(title="published, on SeqGAN's oracle", xlabel="NLL_oracle, nats per token")
    bottom = min(lowest(curve).nll_test for curve in (*measured.values(), *theirs.values()))
    numbers = [one.nll_oracle for one in settings.published.numbers]
    published.plot(numbers, [bottom - 0.1] * len(numbers), "|", color=GREY, label="published without NLL_test")
    published.set_ylim(bottom - 0.2, bottom + ABOVE)
    for panel in (ours, published):
        panel.legend(loc="upper center", bbox_to_anchor=(0.5, -0.15), ncols=2)
    return figure


def _curves(panel: Axes, curves: Mapping[str, Curve], floor: float) -> None:
    """Lower and further left is better; a ring marks temperature 1, or the nearest that was published."""
    panel.axvline(floor, color=GREY, linewidth=0.8, linestyle="--", label="the oracle's own sequences")
    for (name, curve), colour in zip(curves.items(), COLOURS, strict=False):
        panel.plot(
            [p.nll_oracle for p in curve], [p.nll_test for p in curve], ".-", color=colour, linewidth=1, label=name
        )
        plain = min(curve, key=lambda point: abs(point.temperature - 1))
        panel.plot([plain.nll_oracle], [plain.nll_test], "o", color=colour, markersize=9, fillstyle="none")


def _path(panel: Axes, results: Results, name: str, colour: str) -> None:
    """Where an arm went in training, at temperature 1: the mean over seeds of its looks."""
    looks = [one["looks"] for one in results[name] if "looks" in one]
    if looks:
        means = [
            [estimate([look[nll] for look in of_step]).mean for nll in ("nll_oracle", "nll_test")]
            for of_step in zip(*looks, strict=True)
        ]
        panel.plot(*zip(*means, strict=True), ":", color=colour, linewidth=1.2)
