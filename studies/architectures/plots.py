"""The picture of the study of architectures: what outputs depend on, tasks, the cost of writing, training."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from studies.core.statistics import Results, estimate
from troupe.evaluation.plots import GREY

COLOURS = {"GPT-2": "#2f7fd0", "BERT": "#d9822b", "BART": "#1f9e89", "T5": "#c2405a"}
SIZE = (9.4, 12.0)  # inches
TASKS = {"blank": "a blank: share right", "span": "a span: share right", "continuation": "continuation: bits per byte"}


def draw(results: Results) -> Figure:
    """Rows: dependences of GPT-2, BERT and BART's decoder; of BART on what it reads, T5's buckets, time per token; the
    tasks; training losses."""
    figure = Figure(figsize=SIZE, layout="constrained")
    panels = figure.subplots(4, 3)
    gpt2, bert, bart, t5 = (results[name][0] for name in COLOURS)
    words = gpt2["sentence"]
    _map(panels[0, 0], gpt2["dependence"]["its input"], words, "GPT-2: outputs on inputs")
    _map(panels[0, 1], bert["dependence"]["its input"], words, "BERT: outputs on inputs")
    _map(panels[0, 2], bart["dependence"]["decoder's input"], words, "BART: outputs on what is written")
    _map(panels[1, 0], bart["dependence"]["encoder's input"], words, "BART: outputs on what is read")
    _map(panels[1, 1], t5["buckets"], words, "T5: buckets of relative positions", "viridis")
    _costs(panels[1, 2], results)
    for panel, (task, title) in zip(panels[2], TASKS.items(), strict=True):
        _bars(panel, results, task, title)
    for panel in panels[3, 1:]:
        panel.remove()
    _losses(panels[3, 0], results)
    return figure


def _map(panel: Axes, cells: Sequence[Sequence[int]], words: Sequence[str], title: str, colours: str = "Blues") -> None:
    panel.pcolormesh(cells, cmap=colours, vmin=0, edgecolors="#8b919c", linewidth=0.2)
    panel.invert_yaxis()
    panel.set_aspect("equal")
    shown = [repr(word)[1:-1] for word in words]
    panel.set_xticks([place + 0.5 for place in range(len(words))], shown, rotation=90, fontsize=6)
    panel.set_yticks([place + 0.5 for place in range(len(words))], shown, fontsize=6)
    panel.set_title(title, fontsize=8.5)


def _bars(panel: Axes, results: Results, task: str, title: str) -> None:
    names = [name for name in COLOURS if results[name][0]["tasks"][task] is not None]
    found = [estimate([run["tasks"][task] for run in results[name]]) for name in names]
    colours = [COLOURS[name] for name in names]
    panel.bar(names, [one.mean for one in found], yerr=[one.half or 0.0 for one in found], color=colours)
    panel.set_title(title, fontsize=8.5)


def _costs(panel: Axes, results: Results) -> None:
    for name, colour in COLOURS.items():
        points = [(cost["length"], cost["ms"]) for cost in results[name][0]["writing"]]
        if points:
            panel.plot(*zip(*points, strict=True), color=colour, marker="o", label=name)
    panel.set(xlabel="tokens written")
    panel.set_title("ms per token", fontsize=8.5)
    panel.legend()


def _losses(panel: Axes, results: Results) -> None:
    for name, colour in COLOURS.items():
        panel.plot(*zip(*results[name][0]["loss"], strict=True), color=colour, label=name)
    panel.set(xlabel="steps")
    panel.set_title("each objective, nats per predicted token", fontsize=8.5)
    panel.legend(labelcolor=GREY)
