"""The two players, the text they see and the rules: everything that an update of the adversarial game reads or changes.

Both players are given the same prompts of real text. The discriminator's real class is what the text says next, its
other class is what the generator says next.

Shapes: B sequences, T tokens (prompt and continuation), P tokens of prompt, S generated tokens.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from troupe.adversarial.objectives import Score, objective_from
from troupe.adversarial.reinforce import Reinforce
from troupe.adversarial.selection import Bounds
from troupe.data.batches import Batches
from troupe.data.ids import Ids, Shards
from troupe.data.tokenizer import Tokenizer
from troupe.decoding import Decoding, generate
from troupe.models.discriminator import LSTMDiscriminator, init_discriminator
from troupe.models.features import PER_REFERENCE, Read, ReferenceFeatures, no_features
from troupe.models.gpt2 import GPT
from troupe.models.reader import canonical
from troupe.params import GameParams
from troupe.seeding import derive_seed, generator

PLAIN = Reinforce()
HELD_OUT = 256  # validation sequences per look, or as many as there are: a standard error of about 0.025 in the AUC


def critic_of(vocab_size: int, params: GameParams, references: int) -> LSTMDiscriminator:
    """Untrained, of the size that `params` say, for texts of their prompt and sequence."""
    size = params.critic_embd, params.critic_hidden
    return LSTMDiscriminator(vocab_size, *size, PER_REFERENCE * references, params.prompt_length)


@dataclass(frozen=True)
class GameText:
    """The text that both players see."""

    train_ids: Ids | Shards  # the discriminator's real class
    validation_ids: Ids
    # the discriminator reads texts as this one spells them, whoever wrote them (reader.canonical); None: as they are
    tokenizer: Tokenizer | None = None


class Game:
    """The generator starts as a copy of `start`, the discriminator from the seed. Every random draw has a name."""

    def __init__(
        self,
        start: GPT,
        text: GameText,
        params: GameParams,
        seed: int,
        rules: Reinforce = PLAIN,
        references: Sequence[GPT] = (),
        bounds: Bounds | None = None,
    ) -> None:
        """`rules`: how the generator learns. `references`: the discriminator also reads what these models say of
        each token; they must have been trained on text disjoint from that of the game (features.ReferenceFeatures).
        `bounds`: by default those of `params`.

        Raises CorpusError if a split is shorter than a prompt and its continuation.
        """
        self.params, self.seed, self.rules, self.tokenizer = params, seed, rules, text.tokenizer
        self.bounds = bounds or Bounds(params.max_bpb_rise, params.min_distinct)
        self.device = next(start.parameters()).device
        # Eval mode throughout: with dropout, the network that is scored would not be the one that sampled.
        self.start = start.eval()
        self.generator = copy.deepcopy(self.start)
        self.features = ReferenceFeatures(*references) if references else no_features
        self.critic = critic_of(start.config.vocab_size, params, len(references))
        init_discriminator(self.critic, generator(seed, "adversarial", "critic"))
        self.critic.to(self.device)
        self.objective = objective_from(params)
        self.objective.constrain(self.critic)
        self.optimizers = {
            "generator": torch.optim.Adam(self.generator.parameters(), params.learning_rate),
            "critic": self.objective.optimizer(self.critic.parameters(), params.critic_learning_rate),
        }
        length = params.prompt_length + params.sequence_length
        self._text = Batches(text.train_ids, length, params.batch_size, derive_seed(seed, "adversarial", "text"))
        n_held_out = min(HELD_OUT, max(1, len(text.validation_ids) // length - 1))  # side by side, each once
        held_out = Batches(text.validation_ids, length, n_held_out, derive_seed(seed, "adversarial", "held out"))
        self.held_out_BT = held_out.batches(0)[0].to(self.device)
        if references:
            self.critic.standardise(self.read(self.real(0)).features_NTF)

    def real(self, draw: int) -> Tensor:
        """Real sequences ids_BT of the training split. Draws are numbered: a game that resumes sees the same ones."""
        return self._text.batches(draw)[0].to(self.device)

    def fake(self, real_BT: Tensor, *draw: str | int, writer: GPT | None = None) -> Tensor:
        """ids_BT: the same prompts, continued by the generator (or another writer) from its own distribution
        (temperature 1, no filter)."""
        prompts_BP = real_BT[:, : self.params.prompt_length]
        seeds = [derive_seed(self.seed, "adversarial", *draw, "fake", row) for row in range(len(prompts_BP))]
        return generate(writer or self.generator, prompts_BP, self.params.sequence_length, Decoding(), seeds)

    def read(self, ids_BT: Tensor) -> Read:
        """As the discriminator reads them; without gradient."""
        return Read.of(canonical(self.tokenizer, ids_BT) if self.tokenizer else ids_BT, self.features)

    @torch.no_grad()
    def scores(self, ids_BT: Tensor) -> Tensor:
        """score_B of the discriminator, in the objective's own unit; higher = more like real text."""
        return self.critic.score(self.critic.embed(*self.read(ids_BT)))

    @torch.no_grad()
    def prefix_scores(self, ids_BT: Tensor) -> Tensor:
        """(B, S + 1): of the prompt, of the prompt and one token, ..., of the whole text: told token by token, so here
        the generator's own spelling is read, of which the discriminator has learned nothing."""
        scores_BT = self.critic.prefix_scores(self.critic.embed(*Read.of(ids_BT, self.features)))
        return scores_BT[:, self.params.prompt_length - 1 :]

    def trained_score(self, draw: int) -> Score:
        """What the discriminator is trained on: the score of the whole text, but of as much of it as chance decides
        where prefixes are rewarded, so that scores of all lengths come to mean the same, under any objective."""
        if not self.rules.per_token:
            return self.critic.score
        rng = generator(self.seed, "adversarial", draw, "prefix")
        end = self.params.prompt_length + 1 + int(torch.randint(self.params.sequence_length, (), generator=rng))
        return lambda x_BTX: self.critic.score(x_BTX[:, :end])

    def rng(self, *purpose: str | int) -> torch.Generator:
        return generator(self.seed, "adversarial", *purpose, device=self.device)
