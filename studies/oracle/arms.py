"""One job of the oracle study: a generator trained by likelihood, or one that goes on from it against a discriminator.

Shapes: N or B sequences, T = S + 1 tokens with START.
"""

import copy
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from studies.core.jobs import Figures, Job
from studies.oracle.game import Game, discriminator_aucs, play
from studies.oracle.model import PROMPT, LSTMLanguageModel, make_generator, make_oracle, nll, sample
from studies.oracle.settings import GameTask, Likelihood, Task
from troupe.adversarial.reinforce import likelihood_loss
from troupe.seeding import generator

WEIGHTS, SEQUENCES = "model.safetensors", "sequences.safetensors"


class World(NamedTuple):
    """The oracle, one for all seeds, and what it wrote for one of them."""

    oracle: LSTMLanguageModel
    train_NT: Tensor
    validation_NT: Tensor
    test_NT: Tensor


def run_task(job: Job, folder: Path, needed: Path | None) -> Figures:
    """The body of a job."""
    if needed is None:
        return by_likelihood(Task.model_validate(job.settings), job.seed, folder)
    return against_critic(GameTask.model_validate(job.settings), job.seed, needed)


def by_likelihood(task: Task, seed: int, folder: Path) -> Figures:
    """Leaves weights and sequences in `folder`, for those that go on from here."""
    world = new_world(task, seed)
    model = make_generator(task.oracle.vocab_size, task.oracle.width, generator(seed, "oracle study", "init"))
    validation = fit(model, world, task.likelihood, generator(seed, "oracle study", "order"))
    save_file(dict(zip(World._fields[1:], world[1:], strict=True)), folder / SEQUENCES)
    save_file(model.state_dict(), folder / WEIGHTS)
    return {
        "floor": nll(world.oracle, world.test_NT),
        "validation": validation,
        "curve": curve(model, world, task, seed),
    }


def against_critic(task: GameTask, seed: int, needed: Path) -> Figures:
    """From the weights in `needed`."""
    world = World(the_oracle(task), **load_file(needed / SEQUENCES))
    model = LSTMLanguageModel(task.oracle.vocab_size, task.oracle.width)
    model.load_state_dict(load_file(needed / WEIGHTS))
    game, looks = Game(model, world.train_NT, task, seed), []
    for step in play(game):
        fake_NT = sample(model, len(world.validation_NT), task.oracle.length, generator(seed, "oracle study", "look"))
        nlls = {"nll_oracle": nll(world.oracle, fake_NT), "nll_test": nll(model, world.test_NT)}
        looks.append({"step": step, **nlls, **discriminator_aucs(game, world.validation_NT, fake_NT)})
    return {"looks": looks, "curve": curve(model, world, task, seed)}


def the_oracle(task: Task) -> LSTMLanguageModel:
    shape = task.oracle
    return make_oracle(shape.vocab_size, shape.width, generator(shape.seed, "oracle study", "oracle"))


def new_world(task: Task, seed: int) -> World:
    oracle, sizes = the_oracle(task), task.data.model_dump()
    parts = (sample(oracle, n, task.oracle.length, generator(seed, "oracle study", part)) for part, n in sizes.items())
    return World(oracle, *parts)


def fit(model: LSTMLanguageModel, world: World, params: Likelihood, rng: torch.Generator) -> list[float]:
    """NLL of the validation sequences after every epoch; ends at the first that is no better than the one before, and
    leaves the model as it was after the best. The learning rate falls linearly to 0 over `epochs`."""
    optimizer = torch.optim.AdamW(model.parameters(), params.learning_rate, weight_decay=params.weight_decay)
    steps = params.epochs * -(-len(world.train_NT) // params.batch_size)
    rate = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
    seen: list[float] = []
    for _ in range(params.epochs):
        best = copy.deepcopy(model.state_dict())
        for rows_B in torch.split(torch.randperm(len(world.train_NT), generator=rng), params.batch_size):
            loss = likelihood_loss(model, world.train_NT[rows_B], PROMPT)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            rate.step()
        seen.append(nll(model, world.validation_NT))
        if len(seen) > 1 and seen[-1] >= seen[-2]:
            model.load_state_dict(best)
            break
    return seen


def curve(model: LSTMLanguageModel, world: World, task: Task, seed: int) -> list[Figures]:
    """NLL_oracle and NLL_test at every temperature. Every arm of a seed draws with the same random numbers."""
    points = []
    for temperature in task.measured.temperatures:
        rng = generator(seed, "oracle study", "curve", str(temperature))
        ids_NT = sample(model, task.measured.sequences, task.oracle.length, rng, temperature)
        nlls = {"nll_oracle": nll(world.oracle, ids_NT), "nll_test": nll(model, world.test_NT, temperature)}
        points.append({"temperature": temperature, **nlls})
    return points
