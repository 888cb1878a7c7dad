"""SeqGAN's game in the oracle study: a generator is trained by REINFORCE on a discriminator's scores of its sequences.

Where SeqGAN finishes every prefix 16 times to estimate its value (Monte Carlo rollouts: Yu et al. 2017, equation 4),
the discriminator here is trained on prefixes and scores them. Shapes: N or B sequences, T = S + 1 tokens with START.
"""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from studies.core.jobs import Figures
from studies.oracle.model import PROMPT, LSTMLanguageModel, sample
from studies.oracle.settings import GameTask
from troupe.adversarial.discrimination import Examples, Learner, auc_interval, draw, update
from troupe.adversarial.objectives import GAN
from troupe.adversarial.reinforce import continuation_log_probs, token_log_probs
from troupe.models.discriminator import LSTMDiscriminator, init_discriminator
from troupe.models.reader import Read, no_features, scores
from troupe.seeding import generator

GRAD_CLIP = 5.0  # L2 norm of the generator's gradient: SeqGAN's
CONFIDENCE = 0.95


class Game:
    """The generator goes on from where it is, the discriminator starts from the seed; `real_NT` is its real class."""

    def __init__(self, model: LSTMLanguageModel, real_NT: Tensor, task: GameTask, seed: int) -> None:
        self.model, self.task, self.real = model, task, as_read(real_NT)
        self.rules, self.objective = task.arm.rules(), GAN()
        self.rng = generator(seed, "oracle study", "game")
        shape = task.discriminator
        self.critic = LSTMDiscriminator(task.oracle.vocab_size, shape.n_embd, shape.n_hidden)
        init_discriminator(self.critic, generator(seed, "oracle study", "critic"))
        self.critic_optimizer = self.objective.optimizer(self.critic.parameters(), shape.learning_rate)
        learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.Adam(learned, task.arm.learning_rate)

    def write(self) -> Tensor:
        """ids_BT: what the generator writes, at temperature 1."""
        return sample(self.model, self.task.arm.batch_size, self.task.oracle.length, self.rng)


def play(game: Game) -> Iterator[int]:
    """Yields the updates of the generator that were made whenever it is time for a look: at 0, and `looks` times."""
    arm = game.task.arm
    for _ in range(game.task.discriminator.pretraining):
        update_critic(game)
    yield 0
    for step in range(1, arm.steps + 1):
        for _ in range(arm.n_critic):
            update_critic(game)
        update_generator(game)
        if step % (arm.steps // arm.looks) == 0:
            yield step


def update_critic(game: Game) -> None:
    """On every prefix of real and of freshly written sequences."""
    real = draw(game.real, game.task.arm.batch_size, game.rng)
    batch = Examples(real, as_read(game.write()))
    learner = Learner(game.critic, game.objective, game.critic_optimizer, game.critic.prefix_scores)
    update(learner, batch, game.rng)


def update_generator(game: Game) -> None:
    """One step up the policy gradient."""
    ids_BT = game.write()
    advantage_BS = game.rules.advantages(prefix_rewards(game, ids_BT))
    logp_BS = token_log_probs(continuation_log_probs(game.model, ids_BT, PROMPT), ids_BT)
    loss = -(advantage_BS * logp_BS).sum(-1).mean()
    game.optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    clip_grad_norm_(game.model.parameters(), GRAD_CLIP)
    game.optimizer.step()


@torch.no_grad()
def prefix_rewards(game: Game, ids_BT: Tensor) -> Tensor:
    """(B, T): of START alone, of START and a token, ..., of the whole."""
    score_BT = game.critic.prefix_scores(game.critic.embed(*as_read(ids_BT)))
    return score_BT.sigmoid() if game.rules.reward == "probability" else game.objective.reward(score_BT)


def discriminator_aucs(game: Game, held_out_NT: Tensor, fake_NT: Tensor) -> Figures:
    """Areas under the ROC curve of the discriminator: `fake_NT` against real sequences that it was not trained on, and
    against as many of those that it was."""
    fake_N, trained_on = scores(game.critic, as_read(fake_NT)), as_read(game.real.ids_NT[: len(held_out_NT)])
    return {
        "auc_held_out": auc_interval(scores(game.critic, as_read(held_out_NT)), fake_N, CONFIDENCE).auc,
        "auc_train": auc_interval(scores(game.critic, trained_on), fake_N, CONFIDENCE).auc,
    }


def as_read(ids_NT: Tensor) -> Read:
    """The discriminator reads tokens, and no features."""
    return Read(ids_NT, no_features(ids_NT))
