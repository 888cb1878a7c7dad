"""What all arms of one seed start from: text, a likelihood model, a reference, an independent model, a discriminator.

B sequences, T tokens, N texts.
"""

from contextlib import nullcontext
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from time import process_time

import safetensors.torch
import torch
from torch import Tensor, nn

from studies.adversarial.settings import Beginning
from studies.adversarial.text import Role, Text, load_text, open_tokens, save_tokens
from studies.core.jobs import Figures
from troupe.adversarial.discrimination import Examples, Interval, Schedule, SignalTest, train_discriminator
from troupe.adversarial.method import Task
from troupe.adversarial.texts import HELD_OUT, continued
from troupe.bundles.bundle import Bundle
from troupe.data.batches import Batches
from troupe.data.dataset import Ids
from troupe.evaluation.comparison import bits_per_byte, nats
from troupe.files import read_json, write_atomic, write_json
from troupe.models.config import GPTConfig
from troupe.models.discriminator import LSTMDiscriminator
from troupe.models.gpt2 import GPT, init_gpt2
from troupe.models.reader import Discriminator, ReferenceFeatures
from troupe.params import TrainParams
from troupe.seeding import derive_seed, generator
from troupe.training.loop import RunContext, train, validate

VERDICT = "verdict.json"  # in the first job's folder: what its discriminator found


class World:
    """The models of one seed: `likelihood` the generators' start, through which and `reference` discriminators read,
    `independent` what no generator or discriminator reads. Untrained when made."""

    def __init__(self, settings: Beginning, seed: int) -> None:
        self.settings, self.seed = settings, seed
        self.text: Text = load_text(settings.text)
        config = GPTConfig(self.text.tokenizer.vocab_size, **settings.model.model_dump())
        small = replace(config, **settings.small.model_dump())
        self.likelihood, self.reference, self.independent = GPT(config), GPT(small), GPT(small)
        features = ReferenceFeatures(self.likelihood, self.reference)
        self.discriminator = Discriminator(self.new_critic(features), features, self.text.tokenizer)

    def new_critic(self, features: ReferenceFeatures | None) -> LSTMDiscriminator:
        """Untrained; without `features` it reads tokens alone."""
        game, width = self.settings.game, features.width if features else 0
        vocab_size = self.text.tokenizer.vocab_size
        return LSTMDiscriminator(vocab_size, game.critic_embd, game.critic_hidden, width, game.prompt_length)

    def networks(self) -> dict[str, nn.Module]:
        models = {name: getattr(self, name) for name in ("likelihood", "reference", "independent")}
        return {**models, "critic": self.discriminator.critic}

    def save(self, folder: Path) -> None:
        for name, network in self.networks().items():
            write_atomic(folder / f"{name}.safetensors", safetensors.torch.save(network.state_dict()))

        save_tokens(self.text, folder)

    def load(self, folder: Path) -> None:
        for name, network in self.networks().items():
            network.load_state_dict(safetensors.torch.load_file(folder / f"{name}.safetensors"))
            network.eval()

    def task(self, folder: Path) -> Task:
        """For a method of the pipeline: the likelihood model is to be refined, with the text that `save` left."""
        start = Bundle(self.likelihood, self.text.tokenizer, config={}, sha256="")
        data, look = open_tokens(self.text, folder), partial(bits, text=self.text, role="validation")
        return Task(start, start, data, look, derive_seed(self.seed, "study", "game"), threads=1)

    def sequences(self, role: Role, n: int, *purpose: str) -> Tensor:
        """ids_NT: `n` sequences of a part of the text, prompt and continuation as in a game, each once as long as there
        are."""
        game = self.settings.game
        length = game.prompt_length + game.sequence_length
        return Batches(self.text.ids[role], length, n, derive_seed(self.seed, "study", *purpose)).batches(0)[0]

    def continued(self, real_NT: Tensor, *purpose: str) -> Tensor:
        """ids_NT: the same prompts, continued by the likelihood model."""
        seeds = [derive_seed(self.seed, "study", *purpose, row) for row in range(len(real_NT))]
        return continued(self.likelihood, real_NT, self.settings.game.prompt_length, seeds)


def begin(settings: Beginning, seed: int, folder: Path) -> Figures:
    """The first job of a seed: train everything, leave the weights in `folder`."""
    world, began = World(settings, seed), process_time()
    text, others = world.text, settings.others
    seconds = {}
    trained: list[tuple[str, GPT, Role, Role, TrainParams]] = [
        ("likelihood", world.likelihood, "generator", "validation", settings.likelihood),
        ("reference", world.reference, "reference", "validation", others),
        ("independent", world.independent, "validation", "reference", others),
    ]
    for name, model, role, held_out, params in trained:
        first_weights(model, seed, name)
        fit(model, text.ids[role], text, held_out, params, derive_seed(seed, "study", name))
        seconds[name], began = process_time() - began, process_time()
    found = trained_discriminator(world)
    seconds["discriminator"] = process_time() - began
    world.save(folder)
    write_json(folder / VERDICT, asdict(found))
    facts = {"signal": found.signal, "found": str(found), "auc": found.interval.auc}
    bytes_of = {role: text.n_bytes(role) for role in text.part}
    return {"bytes": bytes_of, "tokens": {role: len(ids) for role, ids in text.ids.items()}, "seconds": seconds} | facts


def first_weights(model: GPT, seed: int, name: str) -> None:
    init_gpt2(model, generator(seed, "study", name, "init"))


def fit(model: GPT, ids: Ids, text: Text, held_out: Role, params: TrainParams, seed: int) -> None:
    """Train by likelihood; the weights of the best look at held-out text stay, and the model in eval mode."""
    torch.manual_seed(derive_seed(seed, "dropout"))
    batches = Batches(ids, model.config.block_size, params.batch_size, derive_seed(seed, "batches"))
    look = partial(validate, model, text.ids[held_out], text.n_bytes(held_out), nullcontext)
    train(model, batches, look, params, RunContext())
    model.eval()


def trained_discriminator(world: World) -> SignalTest:
    """Train the discriminator against the likelihood model: until it has a signal, then to its best round."""
    params, rate = world.settings.discriminator, world.settings.game.critic_learning_rate
    schedule = Schedule(params.bar, params.updates, params.looks, params.batch_size, params.more)
    train_both, held_out = _examples(world, "real", params.texts), _examples(world, "validation", HELD_OUT)
    rng = generator(world.seed, "study", "discriminator")
    return train_discriminator(world.discriminator.critic, train_both, held_out, schedule, rate, rng)


def first_signal(folder: Path) -> SignalTest:
    """What the first job found of its discriminator."""
    found = read_json(folder / VERDICT)
    return SignalTest(Interval(**found["interval"]), found["updates"], found["bar"])


def bits(model: GPT, text: Text, role: Role) -> float:
    """Bits per byte of a whole part, in windows that overlap by half."""
    stride = max(1, model.config.block_size // 2)
    with torch.no_grad():
        return bits_per_byte(nats(model, text.ids[role], stride), text.n_bytes(role))


def _examples(world: World, role: Role, n: int) -> Examples:
    real_NT = world.sequences(role, n, "discriminator", role)
    fake_NT = world.continued(real_NT, "discriminator", role, "fake")
    return Examples(*map(world.discriminator.read, (real_NT, fake_NT)))
