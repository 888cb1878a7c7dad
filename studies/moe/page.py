"""The page of the study of attention experts: tables, and the verdict, from the figures of the jobs alone."""

from collections.abc import Iterator, Sequence
from typing import Any

from studies.core.jobs import Figures
from studies.core.page import sections_of, table
from studies.core.statistics import Results, estimate, less, over
from studies.moe.settings import Settings
from studies.moe.verdict import jump, last_look, level, macs, memory_share, regained, test_loss, verdict
from troupe.inspection.attention import FLOAT32

NOTES = [
    "Losses are nats per token, `bpb` bits per byte of UTF-8, over the whole of a held-out text in windows that "
    "overlap by half; test text was looked at once, at the end, and no weights were chosen by it.",
    "± is the 95 % interval over seeds, by Student's t. A difference is taken within a seed, between arms that saw the "
    "same batches; less than zero is better. A bar on a loss is kept, or missed, where the whole interval is on one "
    "side of it; else it is not decided, as it never is by one seed.",
    "All arms have the same budget. A conversion that computes (distillation) is counted in steps of training the "
    "converted model, by MACs, the optimisers' included (Muon's Newton-Schulz iterations), and the arm trains on for "
    "so many steps fewer, rounded, its rate falling over those that are left: `trained on` says for how many. What "
    "distillation reads is the training text, too, in batches of its own.",
    "Jump: the loss right after the conversion less the one right before it, on the beginning of validation text. "
    "Regained: the steps of training, and those that the conversion cost, until a look first found the loss of before. "
    "A rate that falls brings that about by itself if the first phase ended with it up. So beside it: when, seed by "
    "seed, a look first found a loss that is level (above by the bar at most) with that of the dense model continued, "
    "as many steps after the switch; the steps given count the conversion's. Of two last looks, each with its budget "
    "spent, the difference.",
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
    parts = {
        "Quality": quality(settings, results),
        "The switch": switch(settings, results),
        "Costs of attention": costs(settings, results),
        "Experts": experts(settings, [*settings.arms], results),
        "Against collapse": experts(settings, [*settings.remedies], results),
    }
    picture = "Test loss against costs, and the loss after the switch"
    return sections_of(name, verdict(settings, results), picture, parts, NOTES)


def quality(settings: Settings, results: Results) -> str:
    """A row per arm: losses, and differences to the dense model continued and to both dense controls."""
    others = list(dict.fromkeys([settings.bars.dense, settings.bars.wide, settings.bars.narrow]))
    columns = ["test loss", "test bpb", "validation loss", "validation bpb", *(f"less {name}" for name in others)]

    def row(name: str) -> list[str]:
        runs = results[name]
        means = [f"{over(runs, split, figure):.4f}" for split in ("test", "validation") for figure in ("loss", "bpb")]
        return means + ["" if name == other else f"{less(results, name, other, test_loss):+.4f}" for other in others]

    return table("arm", columns, {name: row(name) for name in settings.arms})


def switch(settings: Settings, results: Results) -> str:
    """A row per arm that starts from the pretrained model."""
    bars = settings.bars
    names = [name for name, arm in settings.arms.items() if arm.start == "pretrained"]
    columns = ["before", "after", "jump", "conversion, steps", "trained on, steps", "regained, steps"]
    columns += [f"level with {bars.dense}, steps", f"last look, less {bars.dense}"]

    def row(name: str) -> list[str]:
        runs, dense = results[name], results[bars.dense]
        plain = [f"{over(runs, figure):.4f}" for figure in ("before", "after")]
        plain += [f"{estimate([jump(run) for run in runs]):+.4f}", f"{runs[0]['conversion_steps']:.1f}"]
        plain += [str(runs[0]["continued"]["looks"][-1]["step"]), _regained(runs)]
        return plain + (["", ""] if name == bars.dense else _beside(runs, dense, bars.gap))

    return table("arm", columns, {name: row(name) for name in names})


def costs(settings: Settings, results: Results) -> str:
    """A row per arm; what depends on shapes alone is the same for all seeds."""
    dense = results[settings.bars.dense][0]
    context = settings.model.block_size
    columns = [
        "parameters",
        "useful + causal MACs",
        "share",
        "executed + full MACs",
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
            f"{macs(run):,}",
            f"{macs(run) / macs(dense):.1%}",
            f"{macs(run, 'executed', 'full'):,}",
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


def _regained(runs: Sequence[Figures]) -> str:
    steps = [step for run in runs if (step := regained(run)) is not None]
    if len(steps) < len(runs):
        return f"never in {len(runs) - len(steps)} of {len(runs)}"
    return f"{estimate(steps):.1f}"


def _beside(runs: Sequence[Figures], dense: Sequence[Figures], gap: float) -> list[str]:
    """When each seed was level with the dense model, and by how much the last looks differ."""
    pairs = list(zip(runs, dense, strict=True))
    steps = [level(run, other, gap) for run, other in pairs]
    apart = estimate([last_look(run) - last_look(other) for run, other in pairs])
    return [", ".join("never" if step is None else f"{step:.1f}" for step in steps), f"{apart:+.4f}"]


def _flat(nested: Any) -> list[float]:
    return [value for item in nested for value in _flat(item)] if isinstance(nested, list) else [nested]
