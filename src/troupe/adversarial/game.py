"""The two players of the adversarial game, the text they see and the rules: all that an update reads or changes.

Both players are given the same prompts of real text. The discriminator's real class is what the text says next, its
other class is what the generator generates. A method whose generator is its own discriminator plays without one.

A discriminator is no judge of the generator that was trained against it, and the lowest likelihood loss would nearly
always choose the model of step 0. So training goes on while the generator stays within `Bounds` of where it started, in
likelihood on held-out text and in variety; it stops at the first measurement outside. The last generator within bounds
is the game's candidate. Whether it is better than the start is decided by independent judges (judging/selection.py).

Shapes: B sequences, T tokens (prompt and continuation), P tokens of prompt, S generated tokens.
"""

import copy
import math
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from functools import cached_property

import torch
from torch import Tensor

from troupe.adversarial.objectives import Objective, Score
from troupe.adversarial.reinforce import Reinforce
from troupe.compute import torch_threads
from troupe.data.batches import Batches
from troupe.data.dataset import Ids, Shards
from troupe.data.tokenizer import Tokenizer
from troupe.decoding import Decoding, generate
from troupe.models.discriminator import LSTMDiscriminator
from troupe.models.gpt2 import GPT
from troupe.models.reader import Features, Read, canonical
from troupe.params import GameParams, RefinementParams
from troupe.seeding import derive_seed, generator

PLAIN = Reinforce()
HELD_OUT = 128  # validation sequences per measurement at most: a standard error of 0.035 in the AUC


@dataclass(frozen=True)
class Look:
    """The generator on validation text, after `step` generator updates, and its discriminator if there is one."""

    step: int
    bpb: float  # bits per UTF-8 byte of the text; lower is better
    distinct_2: float  # of the generated continuations; the real ones' value is the good one
    kl: float = 0.0  # KL(generator || start) in nats per generated token
    auc: float | None = None  # of the discriminator; 0.5 = it cannot tell real from generated
    auc_low: float | None = None  # lower limit of its 95 % interval
    gap: float | None = None  # mean score of real minus generated text, in the objective's own unit

    def figures(self) -> dict[str, float]:
        """As they are logged."""
        figures = {"val/bpb": self.bpb, "val/distinct_2": self.distinct_2, "val/kl": self.kl}
        if self.auc is not None and self.gap is not None:
            figures |= {"critic/auc": self.auc, "critic/gap": self.gap}
        return figures

    def facts(self) -> dict[str, float | None]:
        """As they are stored; `Look(**facts)` reads them back."""
        return asdict(self)


def distinct_2(ids_BS: Tensor) -> float:
    """Different pairs of neighbouring tokens / all pairs, over all sequences together; 1 if no pair occurs twice.

    It falls as sequences are added, so compare equal amounts only.
    """
    pairs_N2 = torch.stack([ids_BS[:, :-1], ids_BS[:, 1:]], dim=-1).flatten(0, 1)
    return len(torch.unique(pairs_N2, dim=0)) / max(1, len(pairs_N2))


@dataclass(frozen=True)
class Bounds:
    """How far a generator may go from where it started."""

    max_bpb_rise: float  # as a share of the start's
    min_distinct: float  # different token pairs, as a share of the start's
    min_auc: float = 0.0  # that the discriminator must have at the start, by its lower limit


def fault(look: Look, start: Look, bounds: Bounds) -> str | None:
    """Which bound the generator of this look is beyond, in one line; None if it is within all."""
    if not math.isfinite(look.bpb):
        return f"val/bpb is {look.bpb} at step {look.step}"
    limits = {
        "val/bpb": (look.bpb, "above", start.bpb * (1 + bounds.max_bpb_rise)),
        "val/distinct_2": (look.distinct_2, "below", start.distinct_2 * bounds.min_distinct),
    }
    for name, (value, side, bound) in limits.items():
        if value > bound if side == "above" else value < bound:
            return f"{name} is {value:.4f} at step {look.step}, {side} the bound of {bound:.4f}"
    return None


def no_signal(start: Look, bounds: Bounds) -> str | None:
    """Why the game is not worth playing, in one line: a generator would be trained on noise. None if it is."""
    if start.auc is None or start.auc_low is None or start.auc_low > bounds.min_auc:
        return None
    return (
        f"no signal: critic/auc is {start.auc:.3f}, at least {start.auc_low:.3f}, against a bar of {bounds.min_auc:.3f}"
    )


@dataclass(frozen=True)
class GameText:
    """The text that both players see."""

    train_ids: Ids | Shards  # the discriminator's real class
    validation_ids: Ids
    # the discriminator reads texts as this one spells them, whoever wrote them (reader.canonical); None: as they are
    tokenizer: Tokenizer | None = None


@dataclass
class Opponent:
    """The discriminator of a game, and how it is trained there."""

    critic: LSTMDiscriminator
    features: Features  # of models that were trained on text disjoint from that of the game (ReferenceFeatures)
    objective: Objective
    learning_rate: float
    n_critic: int = 1  # updates per generator update
    warmup: int = 0  # updates before the first generator update

    def __post_init__(self) -> None:
        self.objective.constrain(self.critic)
        self.optimizer = self.objective.optimizer(self.critic.parameters(), self.learning_rate)


class Game:
    """The generator starts as a copy of `start`. Every random draw has a name."""

    def __init__(
        self,
        start: GPT,
        text: GameText,
        params: GameParams,
        seed: int,
        rules: Reinforce = PLAIN,
        opponent: Opponent | None = None,
        bounds: Bounds | None = None,
    ) -> None:
        """`rules`: how the generator is trained. `bounds`: by default those of `params`.

        Raises CorpusError if a split is shorter than a prompt and its continuation.
        """
        self.params, self.seed, self.rules, self.tokenizer = params, seed, rules, text.tokenizer
        self.bounds = bounds or Bounds(params.max_bpb_rise, params.min_distinct)
        self.device = next(start.parameters()).device
        # Eval mode throughout: with dropout, the network that is scored would not be the one that sampled.
        self.start = start.eval()
        self.generator = copy.deepcopy(self.start)
        self.optimizer = torch.optim.Adam(self.generator.parameters(), params.learning_rate)
        self.opponent = opponent
        # CPU threads of `small_steps`
        self.threads = params.threads if isinstance(params, RefinementParams) else torch.get_num_threads()
        length = params.prompt_length + params.sequence_length
        self._text = Batches(text.train_ids, length, params.batch_size, derive_seed(seed, "adversarial", "text"))
        n_held_out = min(HELD_OUT, max(1, len(text.validation_ids) // length - 1))  # side by side, each once
        held_out = Batches(text.validation_ids, length, n_held_out, derive_seed(seed, "adversarial", "held out"))
        self.held_out_BT = held_out.batches(0)[0].to(self.device)

    @property
    def against(self) -> Opponent:
        """Raises ValueError if the game is played without a discriminator."""
        if self.opponent is None:
            raise ValueError("this game is played without a discriminator")
        return self.opponent

    @property
    def optimizers(self) -> list[torch.optim.Optimizer]:
        return [self.optimizer, *([self.opponent.optimizer] if self.opponent else [])]

    def real(self, draw: int) -> Tensor:
        """Real sequences ids_BT of the training split. Draws are numbered: a game that resumes sees the same ones."""
        return self._text.batches(draw)[0].to(self.device)

    def fake(self, real_BT: Tensor, *draw: str | int, writer: GPT | None = None) -> Tensor:
        """ids_BT: the same prompts, continued by the generator (or another writer) from its own distribution
        (temperature 1, no filter)."""
        prompts_BP = real_BT[:, : self.params.prompt_length]
        seeds = [derive_seed(self.seed, "adversarial", *draw, "fake", row) for row in range(len(prompts_BP))]
        with self.small_steps():
            return generate(writer or self.generator, prompts_BP, self.params.sequence_length, Decoding(), seeds)

    def small_steps(self) -> AbstractContextManager[None]:
        """Around what goes token by token, generation and an LSTM: each step is too small to be shared out."""
        return torch_threads(self.threads)

    def read(self, ids_BT: Tensor) -> Read:
        """As the discriminator reads them; without gradient."""
        return Read.of(canonical(self.tokenizer, ids_BT) if self.tokenizer else ids_BT, self.against.features)

    @torch.no_grad()
    def scores(self, ids_BT: Tensor) -> Tensor:
        """score_B of the discriminator, in the objective's own unit; higher = more like real text."""
        return self.scores_of(self.read(ids_BT))

    @torch.no_grad()
    def scores_of(self, read: Read) -> Tensor:
        """The same of what was read before."""
        critic = self.against.critic
        with self.small_steps():
            return critic.score(critic.embed(*read))

    @cached_property
    def held_out(self) -> Read:
        """The held-out text as the discriminator reads it, which no update changes."""
        return self.read(self.held_out_BT)

    @torch.no_grad()
    def prefix_scores(self, ids_BT: Tensor) -> Tensor:
        """(B, S + 1): of the prompt, of the prompt and one token, ..., of the whole text: scored token by token, so
        here the generator's own spelling is read, on which the discriminator was not trained."""
        critic, read = self.against.critic, Read.of(ids_BT, self.against.features)
        with self.small_steps():
            scores_BT = critic.prefix_scores(critic.embed(*read))
        return scores_BT[:, self.params.prompt_length - 1 :]

    def trained_score(self, draw: int) -> Score:
        """What the discriminator is trained on: the score of the whole text, but of as much of it as chance decides
        where prefixes are rewarded, so that scores of all lengths come to mean the same, under any objective."""
        critic = self.against.critic
        if not self.rules.per_token:
            return critic.score
        rng = generator(self.seed, "adversarial", draw, "prefix")
        end = self.params.prompt_length + 1 + int(torch.randint(self.params.sequence_length, (), generator=rng))
        return lambda x_BTX: critic.score(x_BTX[:, :end])

    def rng(self, *purpose: str | int) -> torch.Generator:
        return generator(self.seed, "adversarial", *purpose, device=self.device)
