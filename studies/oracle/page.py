"""The page of the oracle study: its tables, from the jobs' figures and the published ones alone, and the verdicts."""

from collections.abc import Iterator, Sequence

from studies.core.page import bullets, table
from studies.core.statistics import Estimate, Results, estimate
from studies.oracle.curves import Comparison, Curve, compare, curves_of, mean_curve, reaching
from studies.oracle.settings import LIKELIHOOD, Settings

UNITS = """NLL_oracle: mean negative log-likelihood, by the oracle, of what a generator writes. NLL_test: that of the
oracle's sequences, by the generator at the same temperature. Both are means over tokens, in nats, as in SeqGAN's code;
lower is better. A low temperature lowers the first and raises the second, so neither alone tells which of two models is
better. More: [docs/algorithms/oracle.md](../../../docs/algorithms/oracle.md)."""
RULE = """Gap: the arm's NLL_oracle less that of the likelihood model where both, each by its own temperature, have the
same NLL_test; mean over levels of it, in nats above the higher of the two lowest. The whole 95 % interval below 0: the
arm moves the curve; above: it falls behind; else no better curve is shown. The last columns: what the arm changed at
temperature 1, and by how much its lowest NLL_test lies above that of likelihood."""
REACHED = """The temperature at which the likelihood model here writes sequences of that NLL_oracle, and its NLL_test
there. The oracles are two draws of the same distribution; the floor of SeqGAN's is {theirs:.2f}, that of this one
{ours:.2f}, so that a number is somewhat {harder} to reach here."""
ABOUT = """The area under its ROC curve, real against generated sequences: 0.5 cannot tell, 1 always can. Held out:
real sequences that it was not trained on; for {held_out} of {arms} arms the interval at the end does not lie above 0.5.
What it tells of those that it was trained on, and not of others, is memory."""
SETTING = """Published figures are of SeqGAN's oracle: other weights, drawn alike. The published likelihood model has
two layers of 128 and dropout, and was chosen by NLL_test; RL-GAN was chosen by the sum of both. Here all generators are
as wide as the oracle. A discriminator that scores prefixes takes the place of SeqGAN's rollouts, an LSTM that of its
CNN, and updates are fewer: the arm `seqgan` has SeqGAN's reward, not its budget.

Curves: {curves}. Yu et al. 2017, "SeqGAN: Sequence Generative Adversarial Nets with Policy Gradient",
arXiv:1609.05473; its code divides by sequence_length * batch_size (pretrain_loss in target_lstm.py), hence nats per
token. Nie et al. 2019, "RelGAN: Relational Generative Adversarial Networks for Text Generation", ICLR."""
BY_HAND = """In pilots with one seed, on another draw of the oracle: the likelihood model's rate and decay, the best of
seven settings by validation sequences; and the rates of the arms, for three times these rates took the generators
further from their start and further behind the curve. By the time that they take: updates, looks and how many
temperatures. No step of an arm is selected: its curve is that of its last."""


def sections(name: str, settings: Settings, results: Results) -> Iterator[str]:
    """The page, below its head, in Markdown; its picture is <name>.svg."""
    likelihood = curves_of(results, LIKELIHOOD)
    comparisons = {name: compare(curves_of(results, name), likelihood, settings.levels) for name in settings.arms}
    yield (
        "Written by `make study-oracle`; every figure but the published ones is measured. ± is the half width of a "
        f"95 % interval over {len(results[LIKELIHOOD])} seeds of training.\n\n{UNITS}"
    )
    yield from _verdicts(settings, results, comparisons)
    yield f"![NLL_oracle against NLL_test]({name}.svg)"
    yield from _curves(results)
    yield from _reached(settings, results)
    yield from _discriminator(settings, results)
    yield f"## Published figures and this setting\n\n{SETTING.format(curves=settings.published.curves_from)}"
    yield f"## Chosen by hand\n\n{BY_HAND}"


def _verdicts(settings: Settings, results: Results, comparisons: dict[str, Comparison]) -> Iterator[str]:
    lines = [
        f"**{name} {one.verdict}**: gap {one.gap:+.3f} nats per token. At temperature 1 NLL_oracle changes by "
        f"{one.nll_oracle:+.3f} and NLL_test by {one.nll_test:+.3f}."
        for name, one in comparisons.items()
    ]
    coldest = mean_curve(curves_of(results, LIKELIHOOD))[0]
    lines.append(
        f"**Temperature alone**: at {coldest.temperature:g} the likelihood model's NLL_oracle is "
        f"{coldest.nll_oracle:.2f}, that of the oracle's own sequences {_floor(results).mean:.2f}; its NLL_test is "
        f"{coldest.nll_test:.2f}."
    )
    yield f"## Does adversarial training move the curve?\n\n{bullets(lines)}"
    columns = [
        "gap",
        *(f"at +{level:g}" for level in settings.levels),
        "NLL_oracle, t = 1",
        "NLL_test, t = 1",
        "lowest NLL_test",
    ]
    rows = {
        name: [f"{value:+.3f}" for value in (one.gap, *one.by_level, one.nll_oracle, one.nll_test, one.lowest_test)]
        for name, one in comparisons.items()
    }
    yield f"{RULE}\n\n{table('arm less likelihood', columns, rows)}"


def _curves(results: Results) -> Iterator[str]:
    """A row per temperature, and the oracle's own sequences."""
    rows = {"the oracle's own sequences": [f"{_floor(results):.3f}", *[""] * (2 * len(results) - 1)]}
    per_arm = [list(zip(*curves_of(results, name), strict=True)) for name in results]
    for points in zip(*per_arm, strict=True):
        rows[f"{points[0][0].temperature:g}"] = [
            f"{estimate(list(values)):.3f}" for of_arm in points for values in list(zip(*of_arm, strict=True))[1:]
        ]
    columns = [f"{name}, {nll}" for name in results for nll in ("NLL_oracle", "NLL_test")]
    yield f"## The curves\n\n{table('temperature', columns, rows)}"


def _reached(settings: Settings, results: Results) -> Iterator[str]:
    curves, published = curves_of(results, LIKELIHOOD), settings.published
    numbers = [(one.method, one.nll_oracle, one.source) for one in published.numbers]
    rows = {f"{method} ({source})": [f"{number:.3f}", *_where(curves, number)] for method, number, source in numbers}
    ours = _floor(results).mean
    sentences = REACHED.format(
        theirs=published.floor, ours=ours, harder="harder" if ours > published.floor else "easier"
    )
    columns = ["NLL_oracle, published", "temperature here", "NLL_test here"]
    yield f"## What one number hides\n\n{sentences}\n\n{table('published', columns, rows)}"


def _where(curves: Sequence[Curve], nll_oracle: float) -> list[str]:
    found = [point for curve in curves if (point := reaching(curve, nll_oracle))]
    if len(found) < len(curves):
        return ["not between the temperatures measured", ""]
    return [f"{estimate([one.temperature for one in found]):.2f}", f"{estimate([one.nll_test for one in found]):.2f}"]


def _discriminator(settings: Settings, results: Results) -> Iterator[str]:
    rows, blind = {}, 0
    for name in settings.arms:
        for when, index in (("before the generator's first update", 0), ("at the end", -1)):
            looks = [one["looks"][index] for one in results[name]]
            held_out, train = (estimate([look[auc] for look in looks]) for auc in ("auc_held_out", "auc_train"))
            rows[f"{name}, {when}"] = [f"{held_out:.3f}", f"{train:.3f}"]
        blind += held_out.mean - (held_out.half or 0) <= 0.5
    sentences = ABOUT.format(held_out=blind, arms=len(settings.arms))
    aucs = table("arm", ["AUC, held out", "AUC, trained on"], rows)
    yield f"## What the discriminator knows\n\n{sentences}\n\n{aucs}"


def _floor(results: Results) -> Estimate:
    return estimate([one["floor"] for one in results[LIKELIHOOD]])
