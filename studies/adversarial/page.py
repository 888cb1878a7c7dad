"""The page of the study of adversarial refinement: tables from the figures of the jobs alone."""

from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean

from studies.adversarial.arms import CONTROLS
from studies.adversarial.costs import Costs, continued_steps
from studies.adversarial.curve import Gap, Point, gap
from studies.adversarial.settings import GAMES, TILTS, Settings
from studies.adversarial.verdict import accuracy, start_of, test_bpb, verdict, worst
from studies.core.jobs import Figures
from studies.core.page import sections_of, table
from studies.core.statistics import Estimate, Results, estimate, less, over

START = "start"
QUALITY, DIVERSITY = "bits", "self_bleu_3"  # of the curves; lower is better, and rises and falls with temperature
USES = {
    "generator": "likelihood training, the tokenizer, what judges take for known",
    "reference": "training of the model that discriminators read through",
    "real": "discriminators' real class; likelihood steps, DDO and continued training learn from it too",
    "validation": "choices of every kind; what judges of test text learn from; the independent model",
    "test": "one half: judges are tested on it, and figures of real text; the other half: references",
}
FIGURES = (
    "bits",
    "reverse_bits",
    "bleu_3",
    "self_bleu_3",
    "distinct_1",
    "distinct_2",
    "unigram_entropy",
    "out_of_vocabulary",
    "longest_copy",
    "frechet",
)
NOTES = [
    "± is the 95 % interval over seeds, by Student's t. A difference is taken within a seed; less is better.",
    "Worst judge: of several families, each learning afresh per judge's seed, the one with the highest accuracy about "
    "real and generated windows of equal length; 0.5 is perfect. The pick raises it a little: so it does in the row "
    "real against real, from half as many windows. JSD: a lower bound on the Jensen-Shannon divergence, in bits.",
    "Discriminators, but the literal arm's, read what is written as the tokenizer spells it: a generator's own "
    "spelling gives it away to them, and to nobody who reads text.",
    "Bits per byte are the generator's own, of test text: resampling leaves the generator, and so its bits, as it is.",
    "`bits`: of texts under a Kneser-Ney model of text that no generator saw; `reverse_bits`: of real text under one "
    "of the texts; nearest to real text is good, of all columns. Fréchet distance: in the features of the independent "
    "model, trained on validation text, through which no discriminator reads; to the references, as real text's.",
    "Discriminator's AUC: of the one in the game, on validation text, at the start and where the generator was kept. "
    "First AUC: of the discriminator trained against the likelihood model, about what the arm writes: its own opinion, "
    "no evidence. KL: of the generator (not of a resampled writer) from the likelihood model, nats per token.",
    "Tilted: p(token) exp(theta . phi), where phi holds what the generator and a Kneser-Ney model of its training "
    "tokens say of the token. Nine numbers theta learn: by likelihood of the discriminators' real class (a control), "
    "or in rounds of DDO, from what the tilted generator writes; the pipeline's rule for selection keeps one by judges "
    "of validation text, 0 being the untilted, and so a temperature. The figure by which arms are promoted is then one "
    "of several that were looked at, and that of the control of a tilt is not. AUC in the table of games: the first "
    "round's, and that of the round that was kept.",
    "Likelihood, longer: the likelihood model's own training, from the same weights, with more steps to its end: what "
    "others gain should be held against it, too.",
    "Over temperatures only the few judges that the table names are asked, at temperature 1 as at the others. "
    "Gap: mean over the diversities (self-BLEU-3) that both curves reach of an arm's bits less the likelihood model's; "
    "below 0 the arm is better at equal diversity.",
]


def sections(name: str, settings: Settings, results: Results) -> Iterator[str]:
    """The page below its head; its picture is <name>.svg."""
    picture, notes = "Accuracy of the worst judge, and quality against diversity over temperatures", _compute(settings)
    return sections_of(name, verdict(settings, results), picture, tables(settings, results), [*NOTES, notes])


def tables(settings: Settings, results: Results) -> dict[str, str]:
    """Of every figure, by title."""
    return {
        "Arms": arms(settings, results),
        "Tilts against their own start": tilts(settings, results),
        "Judges": judges(settings, results),
        "Quality and diversity": quality(settings, results),
        "Curves over temperature": curves(settings, results),
        "Games": games(settings, results),
        "Text": text(results),
    }


def arms(settings: Settings, results: Results) -> str:
    """A row per arm, then the floor and the writer that must be caught."""
    base = settings.likelihood_arm
    columns = ["worst judge", f"less {base}", "AUC", "JSD", "bits per byte", f"less {base}"]

    def row(name: str) -> list[str]:
        runs = results[name]
        other = name != base
        return [
            *_detection(
                [run["detected"] for run in runs], f"{less(results, name, base, accuracy):+.3f}" if other else ""
            ),
            f"{over(runs, 'bpb', 'test'):.4f}",
            f"{less(results, name, base, test_bpb):+.4f}" if other else "",
        ]

    controls = {"real against real": "floor", "Markov chain of bytes": "bad"}
    others = {
        name: [*_detection([run[key] for run in results[CONTROLS]], ""), "", ""] for name, key in controls.items()
    }
    return table("arm", columns, {name: row(name) for name in settings.arms} | others)


def tilts(settings: Settings, results: Results) -> str:
    """A row per tilted arm: less the arm whose generator it tilts."""

    def row(name: str) -> list[str]:
        start = start_of(settings, name)
        return [
            start,
            f"{less(results, name, start, accuracy):+.3f}",
            f"{less(results, name, start, test_bpb):+.4f}",
        ]

    tilted = [name for name, arm in settings.arms.items() if arm.learn in TILTS]
    columns = ["its start", "worst judge, less its start", "bits per byte, less its start"]
    return table("arm", columns, {name: row(name) for name in tilted})


def judges(settings: Settings, results: Results) -> str:
    """A row per arm: the accuracy of every family, and the worst classifier with its own interval, seed by seed."""
    detected = {name: [run["detected"] for run in results[name]] for name in settings.arms}
    detected |= {"real against real": [run["floor"] for run in results[CONTROLS]]}
    detected |= {"Markov chain of bytes": [run["bad"] for run in results[CONTROLS]]}

    def seed(one: Figures) -> str:
        found = worst(one)
        return f"{found['accuracy']:.3f} ({found['low']:.3f} to {found['high']:.3f}), {one['worst']}"

    families = list(detected["real against real"][0]["judges"])
    rows = {
        name: [*(f"{over(of, 'judges', family, 'accuracy'):.3f}" for family in families), *map(seed, of)]
        for name, of in detected.items()
    }
    n_seeds = len(results[CONTROLS])
    return table("arm", [*families, *(f"worst, seed {number}" for number in range(1, n_seeds + 1))], rows)


def quality(settings: Settings, results: Results) -> str:
    """A row per arm; real text, of as many windows, first."""
    shown = {"real text": over_figures(results[CONTROLS], "real")}
    shown |= {name: over_figures(results[name], "quality") for name in settings.arms}
    shown |= {"Markov chain of bytes": over_figures(results[CONTROLS], "bad_quality")}
    return table("texts of", FIGURES, shown)


def over_figures(runs: Sequence[Figures], key: str) -> list[str]:
    return [f"{over(runs, key, figure):.3f}" for figure in FIGURES]


def curves(settings: Settings, results: Results) -> str:
    """A row per arm with a curve: the worst of few classifiers at each temperature, and the gap to likelihood."""
    base = results[settings.likelihood_arm]
    columns = [*(f"{temperature:g}" for temperature in settings.curve), "gap, bits"]

    def row(name: str) -> list[str]:
        runs = results[name]
        found = [gap(points(ours), points(theirs)) for ours, theirs in zip(runs, base, strict=True)]
        at = [dict(accuracies(settings, run)) for run in runs]
        detected = [f"{fmean(one[temperature] for one in at):.3f}" for temperature in settings.curve]
        return [*detected, "" if name == settings.likelihood_arm else _gap(found)]

    few = " or ".join(settings.judging.few)
    return table(f"{few} at", columns, {name: row(name) for name in settings.arms if has_curve(results[name])})


def has_curve(runs: Sequence[Figures]) -> bool:
    """In every seed: an arm that found no signal writes, and is judged, as the likelihood model is."""
    return all(run["curve"] for run in runs)


def points(run: Figures) -> list[Point]:
    """The curve of one run, by rising temperature."""
    shown = [*run["curve"], {"temperature": run["temperature"], **run["quality"]}]
    found = [Point(one["temperature"], one[QUALITY], one[DIVERSITY]) for one in shown]
    return sorted(found, key=lambda point: point.temperature)


def accuracies(settings: Settings, run: Figures) -> list[tuple[float, float]]:
    """(temperature, accuracy of the worst of the few classifiers), by rising temperature."""
    detected = max(run["detected"]["judges"][family]["accuracy"] for family in settings.judging.few)
    return sorted([*((one["temperature"], one["accuracy"]) for one in run["curve"]), (run["temperature"], detected)])


def games(settings: Settings, results: Results) -> str:
    """A row per arm: what happened to its generator, and what it cost."""
    costs = Costs(settings)
    columns = [
        "kept at step or round",
        "discriminator's AUC, first",
        "kept",
        "first AUC",
        "KL",
        "candidates in effect",
        "temperature",
        "10^12 MACs",
        "seconds, learning",
        "measuring",
        "stopped",
    ]

    def row(name: str) -> list[str]:
        runs, arm = results[name], settings.arms[name]
        looks = [run["game"] for run in runs if "game" in run] + [_rounds(run) for run in runs if "rounds" in run]
        lines = [f"seed {seed}: {run['stopped']}" for seed, run in enumerate(runs, 1) if "stopped" in run]
        return [
            ", ".join(str(look["kept"]["step"]) for look in looks),
            *(_mean([look[which].get("auc") for look in looks]) for which in ("start", "kept")),
            f"{over(runs, 'auc'):.3f}",
            f"{over(runs, 'kl'):.4f}",
            _mean([run["effective"] for run in runs]),
            ", ".join(f"{run['temperature']:g}" for run in runs),
            f"{costs.whole(arm) / 1e12:.2f}",
            *(f"{over(runs, 'seconds', part).mean:.0f}" for part in ("learning", "measuring")),
            "; ".join(lines),
        ]

    return table("arm", columns, {name: row(name) for name in settings.arms})


def text(results: Results) -> str:
    """A row per part; and what the first discriminator found, seed by seed."""
    first: Mapping[str, dict[str, int]] = results[START][0]
    rows = {part: [f"{first['bytes'][part]:,}", f"{first['tokens'][part]:,}", use] for part, use in USES.items()}
    detected = [
        f"- The first discriminator, seed {seed}: {run['found']}." for seed, run in enumerate(results[START], 1)
    ]
    return table("part", ["bytes", "tokens", "used for"], rows) + "\n\n" + "\n".join(detected)


def _detection(detected: Sequence[Figures], difference: str) -> list[str]:
    """Of the worst classifier: accuracy, a difference to be shown beside it, AUC, JSD."""
    found = [worst(one) for one in detected]
    accuracy, auc, jsd = (estimate([one[figure] for one in found]) for figure in ("accuracy", "auc", "jsd"))
    return [f"{accuracy:.3f}", difference, f"{auc:.3f}", f"{jsd:.3f}"]


def _gap(found: Sequence[Gap | None]) -> str:
    there = [one.mean for one in found if one is not None]
    if len(there) < len(found):
        return f"none in {len(found) - len(there)} of {len(found)}"
    shown: Estimate = estimate(there)
    return f"{shown:+.3f}"


def _mean(values: Sequence[float | None]) -> str:
    there = [value for value in values if value is not None]
    return f"{fmean(there):.3f}" if there else ""


def _rounds(run: Figures) -> Figures:
    """Of a tilt by DDO, as of a game: the AUC of its first round, and of the one that was kept."""
    kept = run["kept"]
    at = run["rounds"][kept - 1]["auc"] if kept else None
    return {"start": {"auc": run["rounds"][0]["auc"]}, "kept": {"step": kept, "auc": at}}


def _compute(settings: Settings) -> str:
    costs = Costs(settings)
    dear = max(settings.arms, key=lambda name: costs.arm(settings.arms[name]))
    learners = [name for name, arm in settings.arms.items() if arm.learn in GAMES]
    return (
        f"Equal compute is counted in MACs: {dear} is the dearest game, and likelihood training continues for "
        f"{continued_steps(settings)} steps, which cost as much. Counted of an arm ({', '.join(learners)}): its "
        "reference, its discriminator, sampling and updates; a backward pass as two forward passes; not looks, judges, "
        "or what writing costs. Of a tilt: sampling, and a forward pass of every text, not the fit of nine numbers "
        "to that. What was taken over from another arm is counted, too. Processor seconds are of one thread with other "
        "jobs beside it, looks and judges among them."
    )
