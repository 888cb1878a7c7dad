"""The policy gradient of a language model: which way to change it so that its samples earn more reward.

Williams 1992 (REINFORCE). Shapes: B sequences, T tokens (prompt and continuation), S generated tokens, V vocabulary.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

LanguageModel = Callable[[Tensor], Tensor]  # ids_BT -> logits_BTV


def continuation_log_probs(model: LanguageModel, ids_BT: Tensor, prompt_length: int) -> Tensor:
    """log p(. | everything before), in nats, over the vocabulary at every generated position: logp_BSV."""
    return model(ids_BT)[:, prompt_length - 1 : -1].log_softmax(-1)


def sequence_log_prob(logp_BSV: Tensor, ids_BT: Tensor) -> Tensor:
    """log p(continuation | prompt) of each sequence, in nats: the sum of its tokens' log-probabilities, logp_B."""
    generated_BS = ids_BT[:, -logp_BSV.shape[1] :]
    return logp_BSV.gather(-1, generated_BS.unsqueeze(-1)).squeeze(-1).sum(-1)


def leave_one_out(reward_B: Tensor) -> Tensor:
    """Each reward minus the mean of the *other* rewards in the batch (Kool et al. 2019).

    This baseline does not depend on the sample it is taken from, so the gradient stays unbiased. Needs B >= 2.
    """
    return (reward_B - reward_B.mean()) * len(reward_B) / (len(reward_B) - 1)


def normalised(advantage_B: Tensor) -> Tensor:
    """The advantages divided by their spread: the step no longer depends on the unit in which a critic scores.

    Divides the batch's gradient by one number, so its direction is kept; as that number depends on the sample, the
    expectation is only nearly that of the undivided one. Equal rewards give zeros.
    """
    spread = advantage_B.square().mean().sqrt()
    return advantage_B / spread.clamp_min(1e-6)  # below that, a float32 score differs by rounding only


class GeneratorLoss(NamedTuple):
    """Scalars with gradient: `policy` in nats per sequence, `kl` and `entropy` in nats per generated token."""

    policy: Tensor  # -(1/B) sum_i A_i log p(x_i | prompt_i)
    kl: Tensor
    entropy: Tensor


def generator_loss(
    model: LanguageModel, start: LanguageModel, ids_BT: Tensor, advantage_B: Tensor, prompt_length: int
) -> GeneratorLoss:
    """Score sampled sequences again, now with gradient, and compare the model with the one it started from.

    `kl` is KL(model || start), exact over the vocabulary at each sampled prefix; its gradient takes
    the prefixes as given.
    """
    logp_BSV = continuation_log_probs(model, ids_BT, prompt_length)
    with torch.no_grad():
        start_BSV = continuation_log_probs(start, ids_BT, prompt_length)
    policy = -(advantage_B * sequence_log_prob(logp_BSV, ids_BT)).mean()
    kl = (logp_BSV.exp() * (logp_BSV - start_BSV)).sum(-1).mean()
    entropy = -(logp_BSV.exp() * logp_BSV).sum(-1).mean()
    return GeneratorLoss(policy, kl, entropy)
