"""One arm of the study of adversarial refinement with one seed: how its generator changes, and what is measured of it.

All arms start from the models that the first job of the seed left behind (world.py).
"""

import copy
import math
from dataclasses import dataclass, replace
from pathlib import Path
from time import process_time

import safetensors.torch

from studies.adversarial.measures import START, Bench, Writer, distance_from, effective
from studies.adversarial.settings import TILTS, Arm, Beginning, Common
from studies.adversarial.tilt import tilt_by_ddo, tilt_by_likelihood, untilted
from studies.adversarial.world import World, begin, bits, first_signal, first_weights, fit
from studies.core.jobs import Figures, Job
from troupe.adversarial import ddo, distil, gan, likelihood, temperature
from troupe.adversarial.game import Bounds, Game, GameText, Opponent
from troupe.adversarial.loop import refine
from troupe.adversarial.objectives import objective_of
from troupe.adversarial.pretraining import Pretrained
from troupe.errors import TroupeError
from troupe.files import read_json, write_atomic, write_json
from troupe.models.discriminator import init_discriminator
from troupe.models.gpt2 import GPT
from troupe.models.reader import Discriminator, no_features
from troupe.models.tilted import Tilted
from troupe.params import DdoParams, DistilParams, GanParams, TemperatureParams
from troupe.seeding import derive_seed, generator
from troupe.training.loop import RunContext

UNBOUNDED = Bounds(max_bpb_rise=math.inf, min_distinct=0.0)
TAKEN = "taken.json"  # in an arm's folder: whose models it started from
CONTROLS = "controls"  # the arm that is no generator: real text, and a writer that must be caught


@dataclass(frozen=True)
class Learned:
    """The outcome of an arm: its generator, the discriminator that resampling would use, and the facts."""

    model: GPT
    discriminator: Discriminator
    facts: Figures


def run_arm(job: Job, folder: Path, needed: Path | None) -> Figures:
    """The body of a job: what all arms of a seed start from, the controls, or an arm."""
    if needed is None:
        return begin(Beginning.model_validate(job.settings["common"]), job.seed, folder)
    settings = Common.model_validate(job.settings["common"])
    world, first = World(settings, job.seed), first_folder(needed)
    world.load(first)
    bench = Bench(world, settings)
    if job.arm == CONTROLS:
        return bench.controls()
    arm, found, began = Arm.model_validate(job.settings["arm"]), first_signal(first), process_time()
    if needs_signal(arm) and not found.signal:
        arm, learned = Arm(), replace(begun(world), facts={"stopped": str(found)})
    else:
        start = load(needed, world, settings.tilt.order) if arm.of else begun(world)
        learned = learn(arm, start, bench, first, job.settings["continued_steps"])
    save(learned, folder, first)
    learning = process_time() - began
    figures = measured(arm, bench, learned) | learned.facts
    return figures | {"seconds": {"learning": learning, "measuring": process_time() - began - learning}}


def needs_signal(arm: Arm) -> bool:
    """Whether the arm uses the first discriminator: none does so where that has no signal."""
    return arm.candidates > 1 or (arm.learn in ("reinforce", "distil") and not arm.literal)


def first_folder(needed: Path) -> Path:
    """The folder of the seed's first job, which an arm needs itself or through the arm that it takes over."""
    taken = needed / TAKEN
    return needed.parent / read_json(taken)["first"] if taken.exists() else needed


def begun(world: World) -> Learned:
    """What arms start from that take over no other's."""
    return Learned(world.likelihood, world.discriminator, {})


def save(learned: Learned, folder: Path, first: Path) -> None:
    """For arms that take it over."""
    for name, network in (("generator", learned.model), ("critic", learned.discriminator.critic)):
        write_atomic(folder / f"{name}.safetensors", safetensors.torch.save(network.state_dict()))
    write_json(folder / TAKEN, {"first": first.name, "tilted": isinstance(learned.model, Tilted)})


def load(folder: Path, world: World, order: int) -> Learned:
    """What `save` wrote."""
    model, critic = copy.deepcopy(world.likelihood), copy.deepcopy(world.discriminator.critic)
    if read_json(folder / TAKEN)["tilted"]:
        model = untilted(model, world, order)
    model.load_state_dict(safetensors.torch.load_file(folder / "generator.safetensors"))
    critic.load_state_dict(safetensors.torch.load_file(folder / "critic.safetensors"))
    return Learned(model, replace(world.discriminator, critic=critic), {})


def learn(arm: Arm, start: Learned, bench: Bench, first: Path, continued_steps: int) -> Learned:
    if arm.learn == "nothing":
        return start
    task = bench.world.task(first)
    if arm.learn == "likelihood":
        found = likelihood.run(task, bench.settings.continued_for(continued_steps))
        return replace(start, model=found.candidates["likelihood"], facts={"steps": continued_steps})
    if arm.learn == "temperature":
        values = bench.settings.temperatures
        found = temperature.run(task, TemperatureParams(temperatures=values))
        model, facts = bench.select({START: start.model, **found.candidates})
        of = {START: 1.0, **dict(zip(found.candidates, values, strict=True))}
        return replace(start, model=model, facts={**facts, "temperature": of[facts["selected"]]})
    if arm.learn == "longer":
        return replace(start, model=longer(bench), facts={"steps": bench.settings.longer.steps})
    if arm.learn in TILTS:
        tilt = tilt_by_ddo if arm.learn == "tilt by ddo" else tilt_by_likelihood
        model, facts = tilt(start.model, bench, first)
        return replace(start, model=model, facts=facts)
    by = literally if arm.literal else by_method
    try:
        return by(arm, start, bench, first)
    except TroupeError as error:  # a discriminator that diverges before the game begins stops its arm alone
        return replace(start, facts={"stopped": str(error)})


def by_method(arm: Arm, start: Learned, bench: Bench, first: Path) -> Learned:
    """As the pipeline's own method refines a model, against a copy of the first discriminator if it has one."""
    world, params = bench.world, bench.settings.method_of(arm)
    discriminator = replace(start.discriminator, critic=copy.deepcopy(start.discriminator.critic))
    before, task = Pretrained(discriminator, first_signal(first)), world.task(first)
    match params:
        case GanParams():
            result = gan.run_against(before, task, params)
        case DistilParams():
            result = distil.run_against(before, task, params)
        case DdoParams():
            result = ddo.run(task, params)
    model = next(iter(result.candidates.values()), start.model)
    return Learned(model, discriminator, looks(result.facts))


def literally(arm: Arm, start: Learned, bench: Bench, first: Path) -> Learned:
    """By the plain policy gradient, which no method has: no bounds, a new discriminator of tokens alone."""
    world, params = bench.world, bench.settings.game_of(arm)
    task, critic = world.task(first), world.new_critic(None)
    init_discriminator(critic, generator(task.seed, "adversarial", "critic"))
    objective = objective_of(params.objective, params.clip, params.gradient_penalty)
    opponent = Opponent(
        critic, no_features, objective, params.critic_learning_rate, params.n_critic, params.warmup_critic
    )
    text = GameText(task.data.ids("critic"), task.data.ids("validation"))
    game = Game(world.likelihood, text, params, task.seed, bench.settings.rules_of(arm), opponent, UNBOUNDED)
    outcome = refine(game, task.bits_per_byte, RunContext())
    return Learned(game.generator, start.discriminator, looks(outcome.facts(game)))


def looks(facts: Figures) -> Figures:
    """Of a method's facts the figures of the first and of the kept generator, and what stopped it; JSON has no NaN."""
    found: Figures = {"start": {"step": 0}, "kept": {"step": facts["kept_step"]}}
    for name, value in facts.items():
        which, _, figure = name.partition("/")
        if which in found:
            found[which][figure.rpartition("/")[2]] = value if math.isfinite(value) else None
    return {"game": found} | ({"stopped": facts["stopped"]} if facts["stopped"] else {})


def longer(bench: Bench) -> GPT:
    """As the likelihood model, from the same weights on the same text, but to the end: for more steps."""
    world, params = bench.world, bench.settings.longer
    changes = {"steps": params.steps, "eval_interval": max(1, params.steps // params.looks)}
    as_before = bench.settings.likelihood.model_copy(update=changes)
    model, seed = GPT(world.likelihood.config), derive_seed(world.seed, "study", "likelihood")
    first_weights(model, world.seed, "likelihood")
    fit(model, world.text.ids["generator"], world.text, "validation", as_before, seed)
    return model


def measured(arm: Arm, bench: Bench, learned: Learned) -> Figures:
    """All figures of an arm on the page; at other temperatures too, where it has none of its own and
    writes token by token: to draw among candidates takes as many times as long."""
    world, settings = bench.world, bench.settings
    writer = Writer(learned.model, learned.discriminator, arm.candidates, arm.temperature, arm.span)
    detected, texts = bench.judged(writer.write, settings.judging.seeds)
    n = settings.judging.kl_texts
    bpb = {role: bits(learned.model, world.text, role) for role in ("validation", "test")}
    has_curve = arm.temperature == 1.0 and arm.candidates == 1 and arm.learn != "temperature"
    others = [one for one in settings.curve if one != writer.temperature] if has_curve else []
    return {
        "temperature": writer.temperature,
        "detected": detected,
        "quality": bench.quality(texts),
        "bpb": bpb,
        "selection": bench.selection(writer),
        **distance_from(world.likelihood, writer, world, n),
        "effective": effective(writer, world, n) if arm.candidates > 1 else None,
        "curve": bench.curve(writer, others),
        "sample": texts[:2],
    }
