"""The policy gradient of a language model: which way to change it so that its samples earn more reward.

Williams 1992 (REINFORCE). Shapes: B sequences, T tokens (prompt and continuation), S generated tokens, P = S + 1
prefixes, V vocabulary.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

from torch import Tensor

Baseline = Literal["none", "batch mean", "leave one out"]


def token_rewards(reward_BP: Tensor) -> Tensor:
    """reward_BS: by how much each token changed the reward of the text so far.

    `reward_BP` holds the rewards of the P = S + 1 prefixes, from the prompt alone to the whole text. The differences
    add up to the whole text's reward minus the prompt's, which no action of the generator changes (potential-based
    shaping: Ng et al. 1999, with the reward of a prefix as its potential).
    """
    return reward_BP.diff(dim=1)


def reward_to_go(reward_BS: Tensor) -> Tensor:
    """return_BS: sum over u >= t of reward_u. A token is not credited with what came before it."""
    S = reward_BS.size(1)
    return reward_BS @ reward_BS.new_ones(S, S).triu().T


def leave_one_out(reward_B: Tensor) -> Tensor:
    """Each reward minus the mean of the *other* rewards in the batch (Kool et al. 2019), at every position by itself.

    This baseline does not depend on the sample it is taken from, so the gradient stays unbiased. Needs B >= 2.
    """
    return batch_mean(reward_B) * len(reward_B) / (len(reward_B) - 1)


def batch_mean(reward_B: Tensor) -> Tensor:
    """Each reward minus the mean of all: the expected gradient keeps its direction and becomes (B - 1)/B as long."""
    return reward_B - reward_B.mean(0)


def normalised(advantage_B: Tensor) -> Tensor:
    """The advantages divided by their spread: the step no longer depends on the unit in which a critic scores.

    Divides the batch's gradient by one number, so its direction is kept; as that number depends on the sample, the
    expectation is only nearly that of the undivided one. Equal rewards give zeros.
    """
    spread = advantage_B.square().mean().sqrt()
    return advantage_B / spread.clamp_min(1e-6)  # below that, a float32 score differs by rounding only


BASELINES: dict[Baseline, Callable[[Tensor], Tensor]] = {
    "none": lambda reward_B: reward_B,
    "batch mean": batch_mean,
    "leave one out": leave_one_out,
}


LanguageModel = Callable[[Tensor], Tensor]  # ids_BT -> logits_BTV


@dataclass(frozen=True)
class Reinforce:
    """How the generator learns from rewards. The weights are in reward per nat of a sequence; 0 turns a part off."""

    reward: Literal["objective", "probability"] = "objective"  # probability: D = sigmoid(score), as SeqGAN has it
    per_token: bool = False  # a reward for every token, from prefix scores; else one for the sequence
    baseline: Baseline = "leave one out"
    normalise: bool = True
    kl_weight: float = 0.0  # pull towards the starting model
    kl_cap: float = math.inf  # nats per token of KL(model || start) that no step may pass
    likelihood_every: int = 0  # generator updates between two likelihood steps on real text; 0: none

    def advantages(self, reward_BP: Tensor) -> Tensor:
        """(B, S), or (B, 1) for a reward per sequence: rewards of prefixes, less what was to be expected."""
        rewards = token_rewards(reward_BP) if self.per_token else reward_BP[:, -1:]
        advantages = BASELINES[self.baseline](reward_to_go(rewards))
        return normalised(advantages) if self.normalise else advantages


LITERAL = Reinforce(reward="probability", baseline="none", normalise=False)  # L_G = -(1/B) sum_i D(x_i) log p(x_i)


def continuation_log_probs(model: LanguageModel, ids_BT: Tensor, prompt_length: int) -> Tensor:
    """log p(. | everything before), in nats, over the vocabulary at every generated position: logp_BSV."""
    return model(ids_BT)[:, prompt_length - 1 : -1].log_softmax(-1)


def token_log_probs(logp_BSV: Tensor, ids_BT: Tensor) -> Tensor:
    """log p(token | everything before) of each generated token, in nats: logp_BS."""
    generated_BS = ids_BT[:, -logp_BSV.shape[1] :]
    return logp_BSV.gather(-1, generated_BS.unsqueeze(-1)).squeeze(-1)


def sequence_log_prob(model: LanguageModel, ids_BT: Tensor, prompt_length: int) -> Tensor:
    """log p(continuation | prompt) of each sequence, in nats: the sum of its tokens' log-probabilities, logp_B."""
    return token_log_probs(continuation_log_probs(model, ids_BT, prompt_length), ids_BT).sum(-1)


def likelihood_loss(model: LanguageModel, ids_BT: Tensor, prompt_length: int) -> Tensor:
    """Minus the mean log-probability of a token after the prompt, in nats: what training on text minimises."""
    return -token_log_probs(continuation_log_probs(model, ids_BT, prompt_length), ids_BT).mean()


class GeneratorLoss(NamedTuple):
    """Scalars with gradient: `policy` in nats per sequence, `kl` and `entropy` in nats per generated token."""

    policy: Tensor  # -(1/B) sum_i sum_t A_it log p(x_it | x_i<t)
    kl: Tensor
    entropy: Tensor


def generator_loss(
    model: LanguageModel, start_BSV: Tensor, ids_BT: Tensor, advantage_BS: Tensor, prompt_length: int
) -> GeneratorLoss:
    """Score sampled sequences again, now with gradient, and compare the model with the one it started from, whose
    log-probabilities are start_BSV.

    `advantage_BS` may be (B, 1). `kl` is KL(model || start), exact over the vocabulary at each sampled prefix; its
    gradient takes the prefixes as given.
    """
    logp_BSV = continuation_log_probs(model, ids_BT, prompt_length)
    logp_BS = token_log_probs(logp_BSV, ids_BT)
    policy_B = -(advantage_BS * logp_BS).sum(-1)
    kl = kl_per_token(logp_BSV, start_BSV)
    entropy = -(logp_BSV.exp() * logp_BSV).sum(-1).mean()
    return GeneratorLoss(policy_B.mean(), kl, entropy)


def kl_per_token(logp_BSV: Tensor, start_BSV: Tensor) -> Tensor:
    """mean over prefixes of KL(model || start), in nats: a scalar."""
    return (logp_BSV.exp() * (logp_BSV - start_BSV)).sum(-1).mean()
