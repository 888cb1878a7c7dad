"""One arm of the study of adversarial refinement with one seed: how its generator changes, and what is measured of it.

All arms start from the models that the first job of the seed left behind (world.py).
"""

import copy
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from time import process_time
from typing import Any

import numpy as np
import safetensors.torch

from studies.adversarial.measures import Bench, Writer, bits, distance_from, effective
from studies.adversarial.settings import TILTS, Arm, Beginning, Common
from studies.adversarial.tilt import tilt_by_ddo, tilt_by_likelihood, untilted
from studies.adversarial.world import VERDICT, World, begin, first_weights, fit
from studies.core.jobs import Figures, Job
from troupe.adversarial.bounds import Bounds
from troupe.adversarial.ddo import ddo_step
from troupe.adversarial.distil import distil_step
from troupe.adversarial.game import Game, GameText, Opponent
from troupe.adversarial.loop import Learn, Outcome, refine
from troupe.adversarial.objectives import objective_of
from troupe.adversarial.policy import update_generator
from troupe.errors import TroupeError
from troupe.files import read_json, write_atomic, write_json
from troupe.models.discriminator import init_discriminator
from troupe.models.features import no_features
from troupe.models.gpt2 import GPT
from troupe.models.reader import Discriminator
from troupe.models.tilted import Tilted
from troupe.params import TrainParams
from troupe.seeding import derive_seed, generator
from troupe.training.context import RunContext

UNBOUNDED = Bounds(max_bpb_rise=math.inf, min_distinct=0.0)
TAKEN = "taken.json"  # in an arm's folder: whose models it started from
CONTROLS = "controls"  # the arm that is no generator: real text, and a writer that must be caught


@dataclass(frozen=True)
class Learned:
    """What an arm has come to: its generator, the discriminator it would resample with, and what happened."""

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
    arm, verdict, began = Arm.model_validate(job.settings["arm"]), read_json(first / VERDICT), process_time()
    if needs_signal(arm, settings) and not verdict["signal"]:
        arm, learned = Arm(), replace(begun(world), facts={"stopped": verdict["found"]})
    else:
        start = load(needed, world, settings.tilt.order) if arm.of else begun(world)
        learned = learn(arm, start, bench, job.settings["continued_steps"])
    save(learned, folder, first)
    learning = process_time() - began
    figures = measured(arm, bench, learned) | learned.facts
    return figures | {"seconds": {"learning": learning, "measuring": process_time() - began - learning}}


def needs_signal(arm: Arm, settings: Common) -> bool:
    """Whether the arm follows the first discriminator: nothing does so where that has no signal."""
    return arm.candidates > 1 or starts_trained(arm, settings)


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


def learn(arm: Arm, start: Learned, bench: Bench, continued_steps: int) -> Learned:
    if arm.learn == "nothing":
        return start
    if arm.learn == "likelihood":
        return replace(start, model=continued(bench, continued_steps), facts={"steps": continued_steps})
    if arm.learn == "longer":
        return replace(start, model=longer(bench), facts={"steps": bench.settings.longer.steps})
    if arm.learn in TILTS:
        model = untilted(start.model, bench.world, bench.settings.tilt.order)
        tilt = tilt_by_ddo if arm.learn == "tilt by ddo" else tilt_by_likelihood
        return replace(start, model=model, facts=tilt(model, bench))
    game = new_game(arm, bench)
    played_against = replace(start.discriminator, critic=game.opponent.critic) if game.opponent else start.discriminator
    discriminator = start.discriminator if arm.literal else played_against
    return Learned(game.generator, discriminator, played(game, arm, bench))


def played(game: Game, arm: Arm, bench: Bench) -> Figures:
    """Play; what there is to say of it. A discriminator that diverges before the game begins stops its arm alone."""
    try:
        outcome = refine(
            game,
            partial(bits, text=bench.world.text, role="validation"),
            RunContext(),
            learn=learning(arm, bench.world),
        )
    except TroupeError as error:
        return {"stopped": str(error)}
    return facts_of(outcome)


def new_game(arm: Arm, bench: Bench) -> Game:
    """A game on the real class; where the objective is the first discriminator's, that one goes on."""
    world, settings, params = bench.world, bench.settings, bench.settings.game_of(arm)
    no_signal_needed = arm.literal or arm.learn == "ddo"  # an arm without a discriminator, or that ignores its signal
    bounds = Bounds(params.max_bpb_rise, params.min_distinct, min_auc=0.0 if no_signal_needed else settings.min_auc)
    text = world.text
    game = Game(
        world.likelihood,
        GameText(text.ids["real"], text.ids["validation"], None if arm.literal else text.tokenizer),
        params,
        derive_seed(world.seed, "study", "game"),
        settings.rules_of(arm),
        opponent=None if arm.learn == "ddo" else opponent(arm, bench),
        bounds=UNBOUNDED if arm.literal else bounds,
    )
    if game.opponent and not arm.literal and not starts_trained(arm, settings):
        game.opponent.critic.standardise(game.read(game.real(0)).features_NTF)
    return game


def opponent(arm: Arm, bench: Bench) -> Opponent:
    """The first discriminator where the arm starts with it, else a new one."""
    world, params = bench.world, bench.settings.game_of(arm)
    features = world.discriminator.features
    critic = world.new_critic(None if arm.literal else features)
    if starts_trained(arm, bench.settings):
        critic.load_state_dict(world.discriminator.critic.state_dict())
    else:
        init_discriminator(critic, generator(derive_seed(world.seed, "study", "game"), "adversarial", "critic"))
    objective = objective_of(params.objective, params.clip, params.gradient_penalty)
    reads = no_features if arm.literal else features
    return Opponent(critic, reads, objective, params.critic_learning_rate, params.n_critic, params.warmup_critic)


def starts_trained(arm: Arm, settings: Common) -> bool:
    """Whether an arm that plays begins with the first discriminator, and so needs that to have a signal."""
    return arm.learn in ("reinforce", "distil") and not arm.literal and settings.game_of(arm).objective == "gan"


def learning(arm: Arm, world: World) -> Learn:
    if arm.learn == "distil":
        return partial(distil_step, candidates=arm.distil_candidates)
    return partial(ddo_step, start=world.likelihood) if arm.learn == "ddo" else update_generator


def facts_of(outcome: Outcome) -> Figures:
    """What there is to say of a game; JSON has no NaN."""
    looks = {name: _finite(asdict(look)) for name, look in (("start", outcome.start), ("kept", outcome.kept))}
    return {"game": looks} | ({"stopped": outcome.fault} if outcome.fault else {})


def continued(bench: Bench, steps: int) -> GPT:
    """Likelihood training for as much compute as the dearest arm, on its own text and the discriminators' real class,
    which other arms see too; the best look at validation text counts, the start not among them."""
    world, settings = bench.world, bench.settings
    changes = settings.continued.model_dump(exclude={"looks"})
    every = max(1, steps // settings.continued.looks)
    changes |= {"steps": steps, "warmup_steps": 0, "decay_fraction": 1.0, "eval_interval": every}
    params = TrainParams.model_validate(settings.likelihood.model_dump() | changes)
    model = copy.deepcopy(world.likelihood)
    ids = np.concatenate([world.text.ids["generator"], world.text.ids["real"]])
    fit(model, ids, world.text, "validation", params, derive_seed(world.seed, "study", "continued"))
    return model


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
    """Everything that the page says of an arm; at other temperatures too, where it has none of its own and
    writes token by token: to draw among candidates takes as many times as long."""
    world, settings = bench.world, bench.settings
    writer = Writer(learned.model, learned.discriminator, arm.candidates, 1.0, arm.span)
    chosen = best_temperature(writer, bench) if arm.temperature == "best" else {"temperature": arm.temperature}
    writer = writer.at(chosen["temperature"])
    detected, texts = bench.judged(writer.write, settings.judging.seeds)
    n = settings.judging.kl_texts
    bpb = {role: bits(learned.model, world.text, role) for role in ("validation", "test")}
    has_curve = arm.temperature == 1.0 and arm.candidates == 1
    others = [one for one in settings.curve if one != writer.temperature] if has_curve else []
    return {
        **chosen,
        "referee": detected,
        "quality": bench.quality(texts),
        "bpb": bpb,
        "selection": bench.selection(writer),
        **distance_from(world.likelihood, writer, world, n),
        "effective": effective(writer, world, n) if arm.candidates > 1 else None,
        "curve": bench.curve(writer, others),
        "sample": texts[:2],
    }


def best_temperature(writer: Writer, bench: Bench) -> Figures:
    """The temperature at which judges of validation text detect least, and their accuracy at every one."""
    found = {temperature: bench.selection(writer.at(temperature)) for temperature in bench.settings.temperatures}
    measured_at = [{"temperature": temperature, "accuracy": accuracy} for temperature, accuracy in found.items()]
    return {"temperature": min(found, key=lambda temperature: found[temperature]), "tried": measured_at}


def _finite(look: Mapping[str, Any]) -> Figures:
    return {name: value if value is None or math.isfinite(value) else None for name, value in look.items()}
