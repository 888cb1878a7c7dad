"""The page of the study of attention experts: tables, and the bars, from the figures of the jobs alone.

`results` hold of every arm the figures that run_arm returns, one per seed in the same order, so that differences
between arms are taken within a seed.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from studies.common import Estimate, estimate, table
from studies.jobs import Figures
from studies.moe_settings import Bars, Settings
from troupe.inspection.attention import FLOAT32

SAME = 1e-4  # nats per token: less is rounding, as when experts compute what the dense model computed
Results = Mapping[str, Sequence[Figures]]
NOTES = [
    "Losses are nats per token, `bpb` bits per byte of UTF-8, over the whole of a held-out text in windows that "
    "overlap by half; test text was looked at once, at the end, and no weights were chosen by it.",
    "± is the 95 % interval over seeds, by Student's t. A difference is taken within a seed, between arms that saw the "
    "same batches; less than zero is better.",
    "Jump: the loss right after the conversion less the one right before it, on the beginning of validation text. "
    "Regained: the steps of training until a look first found the loss of before, with the conversion's own "
    "computation counted as steps, by MACs.",
    "MACs are per token, mean over a context, of attention alone: `useful` counts the experts that are chosen and the "
    "tokens that are seen (causal), `executed` what is computed: experts as they are computed, and all pairs of tokens "
    "(full). Shares are of the dense model's. Memory: what attention holds per token for the backward pass if no "
    "kernel fuses it. Cache: keys and values per token, in float32.",
    "Tokens/s: of the median step on one thread with other jobs beside it: not paired, an indication only.",
    "Effective experts: exp of the entropy of a router's choices, mean over routers. Dead: no token of the watched "
    "windows chose them. Apart: mean distance of two experts of a head over their mean norm; 0 for copies.",
]


def sections(name: str, settings: Settings, results: Results) -> Iterator[str]:
    """The page below its head; its picture is <name>.svg."""
    yield "\n".join(["### Verdict", "", *(f"- {line}" for line in verdict(settings, results))])
    yield f"![Test loss against costs, and the loss after the switch]({name}.svg)"
    yield f"### Quality\n\n{quality(settings, results)}"
    yield f"### The switch\n\n{switch(settings, results)}"
    yield f"### Costs of attention\n\n{costs(settings, results)}"
    yield f"### Experts\n\n{experts(settings, [*settings.arms], results)}"
    yield f"### Against collapse\n\n{experts(settings, [*settings.remedies], results)}"
    yield "\n".join(f"- {note}" for note in NOTES)


def quality(settings: Settings, results: Results) -> str:
    """A row per arm: losses, and differences to two controls."""
    dense, wide = settings.bars.dense, settings.bars.wide
    columns = ["test loss", "test bpb", "validation loss", "validation bpb", f"less {dense}", f"less {wide}"]

    def row(name: str) -> list[str]:
        runs = results[name]
        means = [f"{over(runs, split, figure):.4f}" for split in ("test", "validation") for figure in ("loss", "bpb")]
        return means + ["" if name == other else f"{less(results, name, other):+.4f}" for other in (dense, wide)]

    return table("arm", columns, {name: row(name) for name in settings.arms})


def switch(settings: Settings, results: Results) -> str:
    """A row per arm that starts from the pretrained model."""
    names = [name for name, arm in settings.arms.items() if arm.start == "pretrained"]
    columns = ["before", "after", "jump", "conversion, steps", "regained, steps"]

    def row(name: str) -> list[str]:
        runs = results[name]
        plain = [f"{over(runs, figure):.4f}" for figure in ("before", "after")]
        paid = f"{over(runs, 'conversion_steps'):.1f}"
        return [*plain, f"{estimate([jump(run) for run in runs]):+.4f}", paid, _regained(runs)]

    return table("arm", columns, {name: row(name) for name in names})


def costs(settings: Settings, results: Results) -> str:
    """A row per arm; what depends on shapes alone is the same for all seeds."""
    dense = results[settings.bars.dense][0]
    context = settings.model.block_size
    columns = [
        "parameters",
        "useful MACs",
        "share",
        "executed MACs",
        "memory, bytes",
        "share",
        "cache, bytes",
        "tokens/s",
    ]

    def row(name: str) -> list[str]:
        run = results[name][0]
        memory = f"{run['attention']['memory_floats'] * FLOAT32 / context:,.0f}"
        return [
            f"{run['parameters']:,}",
            f"{useful_macs(run):,}",
            f"{useful_macs(run) / useful_macs(dense):.1%}",
            f"{run['attention']['executed'] + run['attention']['full']:,}",
            memory,
            f"{memory_share(run, dense):.1%}",
            f"{run['attention']['cache_bytes']:,}",
            f"{over(results[name], 'continued', 'tokens_per_second').mean:,.0f}",
        ]

    return table("arm", columns, {name: row(name) for name in settings.arms})


def experts(settings: Settings, names: Sequence[str], results: Results) -> str:
    """A row per arm with experts: how they are used at the end, and how far apart they have come."""
    columns = ["of", "effective", "least", "dead", "apart after the switch", "apart at the end", "test loss"]

    def row(name: str) -> list[str]:
        runs = results[name]
        effective = [_flat(run["usage"]["effective"]) for run in runs]
        looks = [run["continued"]["looks"] for run in runs]
        return [
            str((settings.arms | settings.remedies)[name].experts.n_expert),  # type: ignore[union-attr]
            f"{estimate([sum(of_run) / len(of_run) for of_run in effective]):.2f}",
            f"{min(map(min, effective)):.2f}",
            f"{estimate([sum(_flat(run['usage']['dead'])) for run in runs]):.1f} of {runs[0]['usage']['experts']}",
            *(f"{estimate([of_run[place]['separation'] for of_run in looks]):.3f}" for place in (0, -1)),
            f"{over(runs, 'test', 'loss'):.4f}",
        ]

    return table("arm", columns, {name: row(name) for name in names if results[name][0]["usage"]})


def verdict(settings: Settings, results: Results) -> list[str]:
    """A line for each bar of the judged arm: the mean over seeds must keep it, of `regained` every seed."""
    bars, steps = settings.bars, settings.pretrain.steps
    runs, dense = results[bars.judged], results[bars.dense]
    back = [regained(run) for run in runs]
    share = None if None in back else max(step / steps for step in back if step is not None)
    shares = [("MACs", useful_macs(runs[0]) / useful_macs(dense[0]), bars.macs)]
    shares.append(("memory", memory_share(runs[0], dense[0]), bars.memory))
    return [
        f"Judged: {bars.judged}",
        _bar("jump at the switch, nats per token", estimate([jump(run) for run in runs]), bars.jump, "+.4f"),
        _bar("regained after, share of the pretraining's steps, most of all seeds", share, bars.regained, ".1%"),
        _bar(f"test loss less {bars.dense}", less(results, bars.judged, bars.dense), bars.gap, "+.4f"),
        *(_bar(f"test loss less {name}", less(results, bars.judged, name), 0.0, "+.4f") for name in _controls(bars)),
        *(_bar(f"attention {what} of {bars.dense}", found, most, ".1%") for what, found, most in shares),
    ]


def jump(run: Figures) -> float:
    """Nats per token that the switch costs at once."""
    cost: float = run["after"] - run["before"]
    return cost


def regained(run: Figures) -> float | None:
    """Steps, the conversion's included, until a look found the loss of before the switch or less; None if none did."""
    found = (look["step"] for look in run["continued"]["looks"] if look["loss"] <= run["before"] + SAME)
    step = next(found, None)
    return None if step is None else step + run["conversion_steps"]


def useful_macs(run: Figures) -> int:
    """Per token: projections, of the experts what is chosen, and attention over the tokens that are seen."""
    macs: int = run["attention"]["useful"] + run["attention"]["causal"]
    return macs


def memory_share(run: Figures, dense: Figures) -> float:
    share: float = run["attention"]["memory_floats"] / dense["attention"]["memory_floats"]
    return share


def over(runs: Sequence[Figures], *path: str) -> Estimate:
    """A figure over seeds, e.g. over(runs, "test", "loss")."""
    values: list[Any] = list(runs)
    for name in path:
        values = [value[name] for value in values]
    return estimate(values)


def less(results: Results, name: str, other: str) -> Estimate:
    """Test loss of an arm less that of another, paired by seed."""
    pairs = zip(results[name], results[other], strict=True)
    return estimate([ours["test"]["loss"] - theirs["test"]["loss"] for ours, theirs in pairs])


def _controls(bars: Bars) -> tuple[str, str]:
    return bars.wide, bars.narrow


def _bar(what: str, found: Estimate | float | None, at_most: float, form: str) -> str:
    said = "never" if found is None else f"{found:{form}}"
    value = found.mean if isinstance(found, Estimate) else found
    kept = value is not None and value <= at_most
    return f"{what}: {said}; the bar is {at_most:{form.lstrip('+')}}: {'kept' if kept else 'missed'}"


def _regained(runs: Sequence[Figures]) -> str:
    steps = [step for run in runs if (step := regained(run)) is not None]
    if len(steps) < len(runs):
        return f"never in {len(runs) - len(steps)} of {len(runs)}"
    return f"{estimate(steps):.1f}"


def _flat(nested: Any) -> list[float]:
    return [value for item in nested for value in _flat(item)] if isinstance(nested, list) else [nested]
