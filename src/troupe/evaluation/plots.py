"""The pictures of the report, as SVG files that follow the reader's light or dark colour scheme.

matplotlib draws without pyplot, hence without global state; equal figures give equal bytes.
"""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from troupe.evaluation.result import Curve, Evaluation
from troupe.files import write_atomic
from troupe.judging.detection import Detection
from troupe.layout import MODEL_STAGES

Records = Sequence[Mapping[str, Any]]
Load = Sequence[Sequence[Sequence[Sequence[float]]]]
Table = Sequence[Sequence[Any]]  # rows, the first of which names the columns
INK = "#0a0b0c"  # stands for the reader's text colour: replaced by currentColor
INK_RULE = "<style>svg{color:#2b2f36}@media(prefers-color-scheme:dark){svg{color:#d3d8e0}}</style>"
GREY = "#8b919c"
COLOURS = {"pretrain": "#2f7fd0", "moe": "#d9822b", "adversarial": "#1f9e89"}  # apart for any eyes, on both grounds
LOAD_COLOURS = "viridis"
ROUTERS = "experts/layer"  # how the names of what stage moe logs of each router begin
SIZE = (4.6, 2.7)  # inches: small, so that pictures stand side by side on a desk and below each other on a phone
CURVE_HEIGHT = 3.4
DIVERSITY, QUALITY = "self_bleu_3", "bits"  # of evaluation/quality.py, by which models are drawn over temperatures
SMOOTHED_OVER = 50  # a curve is drawn over this many stretches of its steps, each at its mean
PANELS = {  # what is drawn of the log of a stage, or of a method under its name, where it has it, in this order
    "train/loss": "training loss, nats per token",
    "val/bpb": "validation, bits per byte",
    "critic/loss": "critic loss",
    "critic/auc": "critic, area under the ROC curve",
    "reward/mean": "mean reward",
    "generator/kl": "divergence from its start, nats per token",
    "moe/effective_experts": "experts in use per head",
}
STYLE: Any = {  # of matplotlib
    "svg.fonttype": "none",
    "svg.hashsalt": "troupe",
    "font.family": "sans-serif",
    "font.sans-serif": ["system-ui", "Helvetica Neue", "Arial", "DejaVu Sans"],
    "font.size": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "axes.linewidth": 0.7,
    "legend.frameon": False,
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK),
}


def draw_all(reports: Path, found: Evaluation, logs: Mapping[str, Records], load: Load) -> None:
    """Write plots/bits-per-byte.svg, plots/judge.svg, plots/power.svg and, for every stage and curve, e.g.
    plots/pretrain-00-train-loss.svg; plots/moe-experts.svg; plots/moe-experts-over-steps.svg, if the log has its
    routers; and, if models were measured over temperatures, plots/curve-quality.svg and plots/curve-judge.svg. What
    each of them shows stands in data/, in a .csv of its name.

    `logs` are the metric records of every stage, by name, `load` is that of the experts, by layer, router, head and
    expert.
    """
    for old in (*(reports / "plots").glob("*.svg"), *(reports / "data").glob("*.csv")):
        old.unlink()  # of a figure that is no longer logged, say

    def draw(name: str, figure: Figure, table: Table) -> None:
        write_svg(reports / "plots" / f"{name}.svg", figure)
        write_csv(reports / "data" / f"{name}.csv", table)

    with matplotlib.rc_context(STYLE):
        draw(
            "bits-per-byte",
            bits_per_byte(found),
            [("model", "bits per byte"), *(row[:2] for row in likelihoods(found))],
        )
        draw("judge", judge(found), detections(found))
        draw("power", power(found), powers(found))
        if found.curve:
            draw("curve-quality", quality_against_diversity(found.curve), over_temperatures(found.curve))
            draw("curve-judge", judge_over_temperature(found.curve), over_temperatures(found.curve))
        for stage, records in logs.items():
            for number, (name, title) in enumerate(panels(records)):
                points, heading = series(records, name), f"{stage} · {title}"
                figure = curve(points, heading, COLOURS.get(stage, GREY))
                draw(f"{stage}-{number:02}-{name.replace('/', '-')}", figure, [("step", heading), *points])
        draw("moe-experts", expert_load(load), shares(load))
        if len(counts := in_use(logs.get("moe", ()))) > 1:
            draw("moe-experts-over-steps", experts_over_steps(counts), counts)


def detections(found: Evaluation) -> Table:
    """What `judge` shows."""
    return [
        ("model", "accuracy of the worst judge", "low", "high"),
        *((name, ruling.accuracy, ruling.low, ruling.high) for name, ruling, _ in rulings(found)),
    ]


def powers(found: Evaluation) -> Table:
    """What `power` shows: accuracy of every family by the share of words that are not the real ones."""
    rows = [(0.0, found.controls.real_against_real.judges)]
    rows += [
        (share, {family: several[number] for family, several in found.controls.power.judges.items()})
        for number, share in enumerate(found.controls.power.shares)
    ]
    families = list(found.judge.families)
    return [("share", *families), *((share, *(judges[name].accuracy for name in families)) for share, judges in rows)]


def over_temperatures(over_temperature: Curve) -> Table:
    """A row for each model and temperature, and one of real text."""
    figures = list(over_temperature.real_text)
    of_models = (
        (name, point["temperature"], *(point[figure] for figure in figures))
        for name, points in over_temperature.models.items()
        for point in points
    )
    return [
        ("model", "temperature", *figures),
        *of_models,
        ("real text", "", *over_temperature.real_text.values()),
    ]


def shares(load: Load) -> Table:
    """A row for each expert of each router of each head."""
    return [
        ("layer", "routes", "head", "expert", "share of choices"),
        *(
            (layer, routes, head, expert, share)
            for layer, routers in enumerate(load)
            for routes, heads in zip(("values", "outputs"), routers, strict=True)
            for head, of_head in enumerate(heads)
            for expert, share in enumerate(of_head)
        ),
    ]


def in_use(records: Records) -> Table:
    """A row for each router and look at it, of how many experts it used: exp(entropy of its choices)."""
    logged = dict.fromkeys(name for record in records for name in record if name.startswith(ROUTERS))
    places = {name: name.removeprefix(ROUTERS).replace("head", "").split("/") for name in logged}
    return [
        ("layer", "routes", "head", "step", "experts in use"),
        *((*places[name], *point) for name in logged for point in series(records, name)),
    ]


def panels(records: Records) -> list[tuple[str, str]]:
    """(figure, title) of what is drawn of a log: those of a method, "gan/val/bpb", under its name and side by side."""
    logged = dict.fromkeys(name for record in records for name in record)
    found = [(name, PANELS[name]) for name in PANELS if series(records, name)]
    for method in dict.fromkeys(name.partition("/")[0] for name in logged if name.partition("/")[2] in PANELS):
        names = ((f"{method}/{name}", f"{method} · {title}") for name, title in PANELS.items())
        found += [(name, title) for name, title in names if series(records, name)]
    return found


def series(records: Records, name: str) -> list[tuple[float, float]]:
    """(step, value) of every record that holds the figure; "nan" and "inf" are logged as text and left out."""
    return [(record["step"], record[name]) for record in records if isinstance(record.get(name), int | float)]


def curve(points: Sequence[tuple[float, float]], title: str, colour: str) -> Figure:
    """A figure over the steps of a stage; long ones as a line through the means of stretches, over the raw points."""
    figure, axes = _figure(title)
    steps, values = ([point[axis] for point in points] for axis in (0, 1))
    width = len(points) // SMOOTHED_OVER
    if width > 1:
        axes.plot(steps, values, color=colour, linewidth=0.6, alpha=0.3)
        whole = range(0, len(points) - width + 1, width)
        steps, values = ([sum(axis[i : i + width]) / width for i in whole] for axis in (steps, values))
    axes.plot(steps, values, color=colour, linewidth=1.8, marker="o" if len(steps) < 30 else "", markersize=3)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.set_xlabel("step")
    axes.margins(x=0.02)
    return figure


def bits_per_byte(found: Evaluation) -> Figure:
    """Bars: every model, and n-grams from order 3 up, on test text; shorter is better."""
    rows = likelihoods(found)
    figure, axes = _figure("Bits per byte of test text (shorter is better)", height=0.9 + 0.24 * len(rows))
    names, values, colours = zip(*rows, strict=True)
    bars = axes.barh(names, values, color=colours, height=0.68)
    axes.bar_label(bars, fmt="%.3f", padding=3, fontsize=8.5)
    axes.invert_yaxis()
    _bare(axes)
    axes.set_xlim(0, 1.12 * max(values))
    return figure


def likelihoods(found: Evaluation) -> list[tuple[str, float, str]]:
    """(name, bits per byte, colour)."""
    ngram = found.ngram.test
    rows = [(name, found.models[name].test.bpb, COLOURS[name]) for name in MODEL_STAGES]
    if control := found.controls.dense_continued:
        rows.append(("dense, continued", control.test.bpb, GREY))
    return rows + [(f"Kneser-Ney {order}", ngram[order], GREY) for order in sorted(ngram, key=int) if int(order) > 2]


def judge(found: Evaluation) -> Figure:
    """The worst judge's accuracy with its 95 % interval, between the controls; 0.5 is chance."""
    rows = rulings(found)
    figure, axes = _figure("Worst judge on test text (towards 0.5 is better)", height=0.9 + 0.32 * len(rows))
    for y, (_, ruling, colour) in enumerate(rows):
        axes.plot([ruling.low, ruling.high], [y, y], color=colour, linewidth=2.2, solid_capstyle="round")
        axes.plot(ruling.accuracy, y, "o", color=colour, markersize=6.5)
        axes.text(ruling.accuracy, y - 0.2, f"{ruling.accuracy:.3f}", ha="center", va="bottom", fontsize=8.5)
    axes.axvline(0.5, color=INK, linewidth=0.8, linestyle=(0, (2, 3)))
    axes.set_yticks(range(len(rows)), [name for name, _, _ in rows])
    axes.set_ylim(len(rows) - 0.5, -0.7)
    axes.set_xlim(min(0.45, *(ruling.low for _, ruling, _ in rows)) - 0.02, 1.03)
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    return figure


def rulings(found: Evaluation) -> list[tuple[str, Detection, str]]:
    """(name, what the worst judge says, colour)."""
    models = [(name, found.models[name].test.judge, COLOURS[name]) for name in MODEL_STAGES]
    controls = found.controls
    bad = (("copied", controls.copied), ("shuffled words", controls.shuffled_words), ("known bad", controls.known_bad))
    return [("real text", controls.real_against_real, GREY), *models, *((name, one, GREY) for name, one in bad)]


def power(found: Evaluation) -> Figure:
    """A line for every family over the share of words replaced; at 0 real text stands against real text."""
    figure, axes = _figure("Judge accuracy by share of words replaced", CURVE_HEIGHT)
    (_, *families), *rows = powers(found)
    for number, family in enumerate(families, 1):
        axes.plot([f"{row[0]:.0%}" for row in rows], [row[number] for row in rows], "o-", label=family, markersize=4)
    axes.axhline(0.5, color=INK, linewidth=0.8, linestyle=(0, (2, 3)))
    axes.set_xlabel("share of the words of real text")
    axes.legend(fontsize=7)
    return figure


def quality_against_diversity(over_temperature: Curve) -> Figure:
    """A line for every model through its temperatures, each written beside its point; real text is a star."""
    figure, axes = _figure("Quality against diversity of texts, by temperature", CURVE_HEIGHT)
    for name, points in ((name, over_temperature.models[name]) for name in MODEL_STAGES):
        at = [(point[DIVERSITY], point[QUALITY]) for point in points]
        axes.plot(*zip(*at, strict=True), "o-", color=COLOURS[name], label=name, linewidth=1.5, markersize=4)
        for point, place in zip(points, at, strict=True):
            axes.annotate(f"{point['temperature']:g}", place, (4, 3), textcoords="offset points", fontsize=7)
    real = over_temperature.real_text
    axes.plot(real[DIVERSITY], real[QUALITY], "*", color=GREY, markersize=11, label="real text")
    axes.set_xlabel("self-BLEU-3 (less is more diverse)")
    axes.set_ylabel("bits per byte of the texts")
    axes.legend(fontsize=8)
    return figure


def judge_over_temperature(over_temperature: Curve) -> Figure:
    """The accuracy of the worst of the few judges; the grey line is that of real text against real text."""
    figure, axes = _figure(f"Worst of {' and '.join(over_temperature.judges)}, by temperature", CURVE_HEIGHT)
    for name, points in ((name, over_temperature.models[name]) for name in MODEL_STAGES):
        at = [(point["temperature"], point["accuracy"]) for point in points]
        axes.plot(*zip(*at, strict=True), "o-", color=COLOURS[name], label=name, linewidth=1.5, markersize=4)
    floor = over_temperature.real_text["accuracy"]
    axes.axhline(floor, color=GREY, linewidth=0.8, linestyle=(0, (2, 3)), label="real text")
    axes.set_xticks([point["temperature"] for point in over_temperature.models[MODEL_STAGES[0]]])
    axes.set_xlabel("temperature")
    axes.set_ylabel("judge accuracy")
    axes.legend(fontsize=8)
    return figure


def expert_load(load: Load) -> Figure:
    """A map: a line for every router of every head, and in it the share of its choices that went to each expert."""
    rows = [
        (f"{layer}.{head} {routes}", shares)
        for layer, routers in enumerate(load)
        for routes, heads in zip(("values", "outputs"), routers, strict=True)
        for head, shares in enumerate(heads)
    ]
    figure, axes = _figure("moe · share of choices by expert (layer.head)", height=0.9 + 0.12 * len(rows))
    names, shares = zip(*rows, strict=True)
    cells = axes.pcolormesh(shares, cmap=LOAD_COLOURS, vmin=0, vmax=2 / len(shares[0]))
    axes.invert_yaxis()
    axes.set_yticks([row + 0.5 for row in range(len(rows))], names, fontsize=6)
    axes.set_xticks([expert + 0.5 for expert in range(len(shares[0]))], map(str, range(len(shares[0]))))
    axes.set_xlabel("expert")
    figure.colorbar(cells, ax=axes, fraction=0.04, extend="max")
    return figure


def experts_over_steps(points: Table) -> Figure:
    """A line for every router, from dark to light by layer, dashed for those of outputs."""
    figure, axes = _figure("moe · experts in use, by router")
    lines: dict[tuple[str, str, str], list[tuple[float, float]]] = {}
    for *router, step, count in points[1:]:
        lines.setdefault((router[0], router[1], router[2]), []).append((step, count))
    layers = sorted({int(layer) for layer, _, _ in lines})
    colours = {str(layer): colormaps[LOAD_COLOURS](layers.index(layer) / len(layers)) for layer in layers}
    for (layer, routes, _), line in lines.items():
        dashes = "-" if routes == "values" else "--"
        axes.plot(*zip(*line, strict=True), dashes, color=colours[layer], linewidth=1, alpha=0.8)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.set_xlabel("step")
    axes.margins(x=0.02)
    return figure


def _figure(title: str, height: float = SIZE[1]) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(SIZE[0], height), layout="constrained")
    axes = figure.add_subplot(title=title)
    return figure, axes


def _bare(axes: Axes) -> None:
    """Bars that carry their figures need no scale."""
    axes.spines[["left", "bottom"]].set_visible(False)
    axes.tick_params(length=0)
    axes.set_xticks([])


def write_csv(path: Path, table: Table) -> None:
    """Write a table, whose first row names its columns."""
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(table)
    write_atomic(path, buffer.getvalue().encode())


def write_svg(path: Path, figure: Figure) -> None:
    """Write what `svg_of` makes of a figure."""
    write_atomic(path, svg_of(figure).encode())


def svg_of(figure: Figure) -> str:
    """A figure, drawn with STYLE, that follows the reader's colour scheme; equal figures give equal bytes."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return buffer.getvalue().replace(INK, "currentColor").replace("<defs>", INK_RULE + "<defs>", 1)
