"""The picture of the study of adversarial objectives: samples, loss beside quality, and the gradient that is left."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from studies.gan.mixtures import mixture
from studies.gan.runs import FAINT, Run, Runs
from studies.gan.settings import NAMED, Settings
from troupe.evaluation.plots import GREY

COLOURS = dict(zip(NAMED, ("#d9822b", "#2f7fd0", "#1f9e89", "#b0489a"), strict=True))  # apart for any eyes
LOSS, DISTANCE = "#2f7fd0", "#d9822b"
PANEL = 2.6  # inches


def draw(settings: Settings, runs: Runs) -> Figure:
    """A column per arm, with the first seed's points on every mixture and its curves; below them, the gradients."""
    games, arms = list(settings.games), list(settings.arms)
    rows = 2 * len(games) + 1
    figure = Figure(figsize=(PANEL * len(arms), PANEL * rows), layout="constrained")
    grid = figure.add_gridspec(rows, len(arms))
    for column, arm in enumerate(arms):
        for row, name in enumerate(games):
            run = runs.of("main", arm, name)[0]
            _points(figure.add_subplot(grid[2 * row, column]), run, f"{arm}, {name}")
            _curves(figure.add_subplot(grid[2 * row + 1, column]), run)
    _gradients(figure.add_subplot(grid[-1, :]), runs)
    return figure


def _points(panel: Axes, run: Run, title: str) -> None:
    means_KD = mixture(run.task.mixture).means_KD
    reach = 1.3 * means_KD.abs().max().item()
    x_K, y_K = means_KD.T.tolist()
    panel.scatter(x_K, y_K, s=30, facecolors="none", edgecolors=GREY, linewidths=0.6)
    x_B, y_B = zip(*run.figures["points"], strict=True)
    panel.scatter(x_B, y_B, s=1.5, color=COLOURS.get(run.arm, GREY))
    panel.set(title=title, xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal", xticks=[], yticks=[])


def _curves(panel: Axes, run: Run) -> None:
    """Minus the critic's loss, on a scale of its own, beside the distance to real points."""
    looks = run.figures["looks"][1:]
    steps = [look["step"] for look in looks]
    panel.plot(steps, [-look["loss"] for look in looks], color=LOSS, linewidth=1)
    panel.set_xlabel("updates")
    panel.set_title("minus loss", color=LOSS)
    quality = panel.twinx()
    quality.plot(steps, [look["distance"] for look in looks], color=DISTANCE, linewidth=1)
    quality.spines["right"].set_visible(True)
    quality.set_title("distance", color=DISTANCE, loc="right")
    for axis in (panel.xaxis, panel.yaxis, quality.yaxis):
        axis.set_major_locator(MaxNLocator(4))


def _gradients(panel: Axes, runs: Runs) -> None:
    for arm in NAMED:
        for run in runs.of("strong_critic", arm):
            steps, norms = zip(*run.figures["norms"], strict=True)
            panel.plot(steps, _relative(norms), color=COLOURS[arm], linewidth=1, label=arm if run.seed == 0 else None)
    panel.set(xscale="symlog", yscale="log", xlabel="updates of the critic", title="gradient norm, share of its peak")
    panel.legend(loc="lower center", ncols=len(NAMED))


def _relative(norms: Sequence[float]) -> list[float]:
    peak = max(*norms, FAINT)
    return [max(norm, FAINT) / peak for norm in norms]
