"""Credit, baselines and normalisation: by hand, and as laws."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from troupe.adversarial.reinforce import LITERAL, Reinforce, leave_one_out, normalised, reward_to_go, token_rewards

F64 = torch.float64
values = st.lists(st.floats(-10, 10), min_size=2, max_size=12)


@given(values)
def test_what_tokens_are_paid_adds_up_to_what_the_text_is_worth(prefixes: list[float]) -> None:
    """A token's return is the whole text's reward less that of the text before the token."""
    reward_BP = torch.tensor([prefixes], dtype=F64)
    return_BS = reward_to_go(token_rewards(reward_BP))
    assert torch.allclose(return_BS, reward_BP[:, -1:] - reward_BP[:, :-1], atol=1e-9)


def test_reward_to_go_by_hand() -> None:
    """Rewards 1, 2, 4: all three for the first token, the last one for the last."""
    assert reward_to_go(torch.tensor([[1.0, 2.0, 4.0]], dtype=F64)).tolist() == [[7, 6, 4]]


def test_settings_choose_what_is_paid_and_against_what() -> None:
    """Two texts of two tokens. Per token: returns (3, 1) and (6, 8), against the other's at each position."""
    reward_BP = torch.tensor([[0.0, 2.0, 3.0], [1.0, -1.0, 7.0]], dtype=F64)
    assert LITERAL.advantages(reward_BP).tolist() == [[3], [7]]
    assert Reinforce(normalise=False).advantages(reward_BP).tolist() == [[-4], [4]]
    assert Reinforce().advantages(reward_BP).tolist() == [[-1], [1]]
    assert Reinforce(per_token=True, normalise=False).advantages(reward_BP).tolist() == [[-3, -7], [3, 7]]
    mean = Reinforce(per_token=True, normalise=False, baseline="batch mean")
    assert mean.advantages(reward_BP).tolist() == [[-1.5, -3.5], [1.5, 3.5]]


def test_leave_one_out_by_hand() -> None:
    """Rewards 1, 2, 6: the others' means are 4, 3.5 and 1.5, so the advantages are -3, -1.5 and 4.5."""
    assert leave_one_out(torch.tensor([1.0, 2.0, 6.0], dtype=F64)).tolist() == pytest.approx([-3, -1.5, 4.5])


rewards = st.lists(st.floats(-100, 100), min_size=2, max_size=16)


@given(rewards, st.floats(0.5, 1000), st.floats(-1000, 1000))
def test_normalised_advantages_do_not_depend_on_the_unit_of_the_reward(
    values: list[float], unit: float, zero: float
) -> None:
    reward_B = torch.tensor(values, dtype=F64)
    if reward_B.std() < 1e-3:
        return
    advantage_B = normalised(leave_one_out(reward_B))
    assert torch.allclose(advantage_B, normalised(leave_one_out(unit * reward_B + zero)), atol=1e-6)
    assert advantage_B.square().mean().item() == pytest.approx(1)
    assert advantage_B.sum().item() == pytest.approx(0, abs=1e-6)


def test_equal_rewards_teach_nothing() -> None:
    assert normalised(leave_one_out(torch.full((4,), 0.5))).tolist() == [0, 0, 0, 0]
