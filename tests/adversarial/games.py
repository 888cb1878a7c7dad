"""A small game: the text counts, the generator is untrained."""

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import numpy as np

from troupe.adversarial.game import Bounds, Game, GameText, Opponent
from troupe.adversarial.objectives import objective_of
from troupe.adversarial.reinforce import Reinforce
from troupe.conversion.attention import convert
from troupe.models.config import GPTConfig
from troupe.models.discriminator import LSTMDiscriminator, init_discriminator
from troupe.models.gpt2 import GPT, evaluating, init_gpt2
from troupe.models.reader import PER_REFERENCE, ReferenceFeatures, no_features
from troupe.models.switchhead import SwitchHeadConfig
from troupe.params import load_params
from troupe.seeding import generator
from troupe.training.loop import validate

NEAR = Reinforce(kl_weight=0.1)
ROOT = Path(__file__).parents[2]
VOCAB = 8
TEXT = np.arange(4000, dtype=np.uint16) % VOCAB  # 0, 1, ... 7 over and over
SMALL = (
    "steps=6 batch_size=8 prompt_length=2 sequence_length=6 n_critic=2 warmup_critic=3 learning_rate=1e-3 "
    "discriminator.learning_rate=1e-2 eval_interval=2 checkpoint_interval=2 max_bpb_rise=10 min_distinct=0"
)


def new_model(seed: int = 0) -> GPT:
    gpt = GPT(GPTConfig(vocab_size=VOCAB, block_size=16, n_layer=1, n_head=2, n_embd=16, dropout=0.5))
    init_gpt2(gpt, generator(seed, "test", "init"))
    return gpt


def with_experts(seed: int = 0) -> GPT:
    experts = SwitchHeadConfig(n_head=2, head_width=8, n_expert=4, top_k=2, router="sigmoid")
    return convert(new_model(seed), experts, "exact", generator(seed, "test", "experts"))


def new_game(
    changes: str = "",
    seed: int = 0,
    rules: Reinforce = NEAR,
    start: GPT | None = None,
    references: Sequence[GPT] = (),
    bounds: Bounds | None = None,
) -> Game:
    overrides = [f"adversarial.gan.{change}" for change in f"{SMALL} {changes}".split()]
    params = load_params(ROOT / "params.yaml", overrides).adversarial.gan
    critic = LSTMDiscriminator(VOCAB, 8, 8, PER_REFERENCE * len(references), params.prompt_length)
    init_discriminator(critic, generator(seed, "adversarial", "critic"))
    features = ReferenceFeatures(*references) if references else no_features
    objective = objective_of(params.objective, params.clip, params.gradient_penalty)
    rate = params.discriminator.learning_rate
    opponent = Opponent(critic, features, objective, rate, params.n_critic, params.warmup_critic)
    game = Game(start or new_model(seed), GameText(TEXT, TEXT[:1000]), params, seed, rules, opponent, bounds)
    if references:
        critic.standardise(game.read(game.real(0)).features_NTF)
    return game


def alone(changes: str = "", seed: int = 0, rules: Reinforce = NEAR) -> Game:
    """The same without a discriminator."""
    overrides = [f"adversarial.gan.{change}" for change in f"{SMALL} {changes}".split()]
    params = load_params(ROOT / "params.yaml", overrides).adversarial.gan
    return Game(new_model(seed), GameText(TEXT, TEXT[:1000]), params, seed, rules)


def bits_per_byte(model: GPT) -> float:
    with evaluating(model):
        return validate(model, TEXT[:1000], 1000, nullcontext)["val/bpb"]
