"""What the study of attention experts concludes from the figures of its jobs: measures of an arm, and the bars.

`results` hold what run_arm returns; differences between arms are taken within a seed.
"""

from math import inf

from studies.core.jobs import Figures
from studies.core.page import bar
from studies.core.statistics import Estimate, Results, estimate, less
from studies.moe.settings import Settings

SAME = 1e-4  # nats per token: less is rounding, as when experts compute what the dense model computed


def verdict(settings: Settings, results: Results) -> list[str]:
    """A line for each bar of the judged arm: on a loss, the interval over seeds decides; of `regained` every seed."""
    bars, steps = settings.bars, settings.pretrain.steps
    runs, dense = results[bars.judged], results[bars.dense]
    back = [regained(run) for run in runs]
    share = None if None in back else max(step / steps for step in back if step is not None)
    most = ((bars.dense, bars.gap), (bars.wide, 0.0), (bars.narrow, 0.0))
    return [
        f"Judged: {bars.judged}",
        _estimated("jump at the switch, nats per token", estimate([jump(run) for run in runs]), bars.jump),
        bar("regained after, share of the pretraining's steps, most of all seeds", share, bars.regained, ".1%"),
        *(_estimated(f"test loss less {name}", less(results, bars.judged, name, test_loss), gap) for name, gap in most),
        _macs(runs[0], dense[0], bars.dense, bars.macs),
        bar(f"attention memory of {bars.dense}", memory_share(runs[0], dense[0]), bars.memory, ".1%"),
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


def level(run: Figures, dense: Figures, gap: float) -> float | None:
    """Steps, the conversion's included, until a look found at most `gap` nats per token more than the dense model had
    as many steps after the switch; None if none did. The last looks, where both budgets are spent, are a pair, too."""
    ours, theirs = run["continued"]["looks"], dense["continued"]["looks"]
    of_step = {look["step"]: look for look in theirs}
    pairs = [(look, of_step[look["step"]]) for look in ours[:-1] if look["step"] in of_step]
    pairs.append((ours[-1], theirs[-1]))
    step = next((look["step"] for look, other in pairs if look["loss"] <= other["loss"] + gap), None)
    return None if step is None else step + run["conversion_steps"]


def last_look(run: Figures) -> float:
    """Nats per token."""
    loss: float = run["continued"]["looks"][-1]["loss"]
    return loss


def macs(run: Figures, projections: str = "useful", attended: str = "causal") -> int:
    """Per token: projections, of the experts what is chosen (useful) or computed (executed), and attention over the
    tokens that are seen (causal) or over all (full)."""
    found: int = run["attention"][projections] + run["attention"][attended]
    return found


def memory_share(run: Figures, dense: Figures) -> float:
    share: float = run["attention"]["memory_floats"] / dense["attention"]["memory_floats"]
    return share


def test_loss(run: Figures) -> float:
    """Nats per token."""
    loss: float = run["test"]["loss"]
    return loss


def _estimated(what: str, found: Estimate, at_most: float) -> str:
    """Decided where the whole interval is on one side of the bar; a single seed, which has none, decides nothing."""
    half = inf if found.half is None else found.half
    if found.mean - half <= at_most < found.mean + half:
        line = f"not decided, the mean {'keeps' if found.mean <= at_most else 'misses'} it"
    else:
        line = "kept" if found.mean <= at_most else "missed"
    return f"{what}: {found:+.4f}; the bar is {at_most:.4f}: {line}"


def _macs(run: Figures, dense: Figures, name: str, at_most: float) -> str:
    """The bar is on what is useful; what is computed, here and now, stands beside it."""
    others = [
        f"{macs(run, *counts) / macs(dense, *counts):.1%} {' + '.join(counts)}"
        for counts in (("useful", "full"), ("executed", "full"))
    ]
    what = f"attention MACs of {name}, judged by useful + causal ({', '.join(others)})"
    return bar(what, macs(run) / macs(dense), at_most, ".1%")
