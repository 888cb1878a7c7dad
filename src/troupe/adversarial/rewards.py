"""From what a discriminator says of prefixes to how much better each token did than expected.

Everything here leaves the expected policy gradient of the sequence's reward as it is, unless its docstring says what it
changes. Shapes: B sequences, S generated tokens; "reward_B..." is (B,) or (B, S).
"""

from collections.abc import Callable
from typing import Literal

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


BASELINES: dict[Baseline, Callable[[Tensor], Tensor]] = {
    "none": lambda reward_B: reward_B,
    "batch mean": batch_mean,
    "leave one out": leave_one_out,
}


def normalised(advantage_B: Tensor) -> Tensor:
    """The advantages divided by their spread: the step no longer depends on the unit in which a critic scores.

    Divides the batch's gradient by one number, so its direction is kept; as that number depends on the sample, the
    expectation is only nearly that of the undivided one. Equal rewards give zeros.
    """
    spread = advantage_B.square().mean().sqrt()
    return advantage_B / spread.clamp_min(1e-6)  # below that, a float32 score differs by rounding only
