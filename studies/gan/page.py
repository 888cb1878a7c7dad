"""The page of the study of adversarial objectives: its tables, from the runs' figures alone, and the verdicts."""

from collections.abc import Iterator, Sequence

from studies.core.page import bullets, table
from studies.core.statistics import estimate
from studies.gan.arms import SAMPLES
from studies.gan.claims import claims
from studies.gan.mixtures import coverage, mixture, sliced_wasserstein
from studies.gan.runs import Run, Runs, left_of_gradient, meaning, succeeded, success_by_seed
from studies.gan.settings import NAMED, MixtureName, Settings
from troupe.seeding import generator

RULE = """Each is a comparison of two arms, or several, within seeds: positive is what the claim says. Confirmed:
the whole interval is above 0. Not confirmed: below. Unclear: it holds 0. A claim needs all of its comparisons, and
one that is not confirmed refutes it."""
CHOSEN = "Learning rates, clip, the penalty of 0.1 and the success of the sweep were chosen by hand after pilot runs."
SETTING = """The published runs are longer and larger. PacGAN, by its code: 400 epochs of 1,000 batches of 100
points, Adam with rate 1e-4 and beta1 0.8, a generator of four layers of 400 with batch normalisation, a
discriminator of three maxout layers of 200 with 5 pieces; 10 runs, ± the standard error. VEEGAN: means of 5 runs.
Mixtures, noise (2-D normal), batches and measures (of 2,500 points) are the same here. The steps are far fewer, at
ten times the papers' rates, the networks are smaller and without batch normalisation, and each objective has its
own optimiser. So the published rows are a frame, not a contest.

Srivastava et al. 2017, "VEEGAN: Reducing Mode Collapse in GANs using Implicit Variational Learning",
arXiv:1705.07761, table 1. Lin et al. 2018, "PacGAN: The power of two samples in generative adversarial networks",
arXiv:1712.04086, table 1."""


def sections(name: str, settings: Settings, runs: Runs) -> Iterator[str]:
    """The page, below its head, in Markdown; its picture is <name>.svg."""
    yield (
        "Written by `make study-gan`; every figure but the published ones is measured. ± is the half width of a 95 % "
        f"interval over {len(runs.of('main', 'gan', next(iter(settings.games))))} seeds. What the measures mean: "
        "[docs/algorithms/adversarial.md](../../../docs/algorithms/adversarial.md#on-points-of-the-plane)."
    )
    yield from _verdicts(settings, runs)
    yield f"![samples, loss and quality, gradients]({name}.svg)\n\n{_arms(settings)}"
    yield from (_coverage(settings, runs, mixture) for mixture in settings.games)
    yield SETTING
    yield _loss(settings, runs)
    yield _gradient(settings, runs)
    yield _rates(settings, runs)
    yield _cost(settings, runs)


def _verdicts(settings: Settings, runs: Runs) -> Iterator[str]:
    found = claims(runs, list(settings.games), settings.sweep.success)
    yield "## What is said of them\n\n" + bullets(f"**{claim.verdict}**: {claim.text}." for claim in found)
    rows = {
        f"{one.better} against {one.worse}: {one.what}": [f"{one.difference:+.2f}", one.verdict]
        for claim in found
        for one in claim.comparisons
    }
    yield f"{RULE}\n\n{table('comparison', ['difference', 'verdict'], rows)}"


def _arms(settings: Settings) -> str:
    rows = {
        name: [f"{arm.n_critic}", f"{arm.learning_rate:g}", f"{arm.clip or ''}", f"{arm.gradient_penalty or ''}"]
        for name, arm in (settings.arms | settings.printed).items()
    }
    shape = f"Batches of {settings.batch_size}; hidden layers {settings.generator_hidden} and {settings.critic_hidden}."
    return f"## The arms\n\n{shape} {CHOSEN}\n\n{table('arm', ['n_critic', 'learning rate', 'clip', 'penalty'], rows)}"


def _coverage(settings: Settings, runs: Runs, name: MixtureName) -> str:
    rows = {"real points": _real(name)}
    for arm in settings.players(name):
        rows[arm] = _measures(runs.of("main", arm, name))
    for row in settings.published:
        rows[f"{row.method} ({row.source})"] = [*(row.grid if name == "grid" else row.ring), ""]
    total, steps = len(mixture(name).means_KD), settings.games[name].steps
    columns = [f"modes of {total}", "high quality, %", "reverse KL", "distance"]
    return f"## The {name} of {total} after {steps:,} updates of the generator\n\n{table('arm', columns, rows)}"


def _measures(runs: Sequence[Run]) -> list[str]:
    modes, reverse_kl, distance = (
        estimate([run.end(figure) for run in runs]) for figure in ("modes", "reverse_kl", "distance")
    )
    good = estimate([100 * run.end("high_quality") for run in runs])
    return [f"{modes:.1f}", f"{good:.1f}", f"{reverse_kl:.2f}", f"{distance:.3f}"]


def _real(name: MixtureName) -> list[str]:
    """As many points of the mixture itself: what a perfect generator would show."""
    target = mixture(name)
    ours, others = (target.sample(SAMPLES, generator(0, "study", "real", which)) for which in ("ours", "others"))
    found = coverage(ours, target)
    distance = sliced_wasserstein(ours, others)
    return [f"{found.modes}", f"{100 * found.high_quality:.1f}", f"{found.reverse_kl:.2f}", f"{distance:.3f}"]


def _loss(settings: Settings, runs: Runs) -> str:
    rows = {
        arm: [f"{estimate([meaning(run) for run in runs.of('main', arm, name)]):+.2f}" for name in settings.games]
        for arm in settings.arms
    }
    lines = (
        "Spearman's correlation, over a run, of minus the critic's loss with the distance to real points; 1 is best."
    )
    return f"## Does the loss tell quality?\n\n{lines}\n\n{table('arm', list(settings.games), rows)}"


def _gradient(settings: Settings, runs: Runs) -> str:
    rows = {}
    for arm in NAMED:
        mine = runs.of("strong_critic", arm)
        norms = [[norm for _, norm in run.figures["norms"]] for run in mine]
        peak, last = estimate([max(one) for one in norms]), estimate([one[-1] for one in norms])
        rows[arm] = [f"{peak:.2g}", f"{last:.2g}", f"{estimate([left_of_gradient(run) for run in mine]):+.2f}"]
    strong = settings.strong_critic
    lines = (
        f"L2 norm of the untrained generator's gradient on the {strong.mixture}, while the critic alone makes "
        f"{strong.steps:,} updates."
    )
    columns = ["peak", "at the end", "log10 of what is left"]
    return f"## A critic that gets strong\n\n{lines}\n\n{table('arm', columns, rows)}"


def _rates(settings: Settings, runs: Runs) -> str:
    sweep = settings.sweep
    rows = {}
    for arm in NAMED:
        mine = runs.of("sweep", arm)
        by_rate = [[run for run in mine if run.task.arm.learning_rate == rate] for rate in sweep.learning_rates]
        cells = [f"{sum(succeeded(run, sweep.success) for run in some)}/{len(some)}" for some in by_rate]
        rows[arm] = [*cells, f"{estimate(success_by_seed(mine, sweep.success)):.2f}"]
    columns = [*(f"{rate:g}" for rate in sweep.learning_rates), "share"]
    lines = (
        f"Runs on the {sweep.mixture} that came, within {sweep.steps:,} updates, to {sweep.success:g} of the distance "
        "from which they began; both players have the same rate."
    )
    return f"## Learning rates\n\n{lines}\n\n{table('arm', columns, rows)}"


def _cost(settings: Settings, runs: Runs) -> str:
    rows = {arm: [cell for name in settings.games for cell in _seconds(runs, arm, name)] for arm in settings.arms}
    columns = [f"{name}, {what}" for name in settings.games for what in ("seconds", "times gan")]
    lines = (
        "CPU seconds of one thread per epoch, which is 1,000 updates of the generator and the critic's that belong to "
        "them; and the ratio, seed by seed."
    )
    return f"## Cost of an epoch\n\n{lines}\n\n{table('arm', columns, rows)}"


def _seconds(runs: Runs, arm: str, name: MixtureName) -> list[str]:
    ours, gan = ([run.figures["seconds"] for run in runs.of("main", one, name)] for one in (arm, "gan"))
    ratios = [one / other for one, other in zip(ours, gan, strict=True)]
    return [f"{estimate(ours):.2f}", f"{estimate(ratios):.2f}"]
