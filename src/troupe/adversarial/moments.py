"""A generator whose own texts hold n-grams as often as real text does: moment matching without a discriminator.

After energy-based fine-tuning (Jelassi et al. 2026, arXiv:2603.12248): with phi a frozen feature of a whole text,
REINFORCE descends

    L = |E phi(generated) - E phi(real)|^2        E phi(real) is counted once

by the reward 2 phi(x) . (E phi(real) - mean of phi over the *other* texts of the batch): a text earns by what real text
has more of than the rest, so that the same good text twice earns less. Under a pull to the start the best model is the
start, tilted exponentially by features of whole texts (Rosenfeld et al. 2001, "Whole-sentence exponential language
models").
Where the paper embeds each text by a network, features here are counts, which are sums over tokens: of n-grams of
tokens, hashed, and of those that the training text does not hold, which is how words that do not exist show. So every
token has a reward of its own. Counts are divided by their spread in Poisson's law, but for seldom ones, of which little
is known: L is a chi-square distance.

Shapes: B texts, T tokens (prompt and continuation), S generated tokens, N orders of n-grams, K = 2N features of a
token, F features in all.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from troupe.adversarial.game import Game, GameText
from troupe.adversarial.loop import play
from troupe.adversarial.method import MethodResult, Task
from troupe.adversarial.policy import of_start, policy_step
from troupe.adversarial.reinforce import Reinforce, normalised, reward_to_go
from troupe.adversarial.texts import each_once
from troupe.models.ngrams import COUNTED
from troupe.params import MomentsParams

FACTOR = 6364136223846793005  # odd, of Knuth's linear congruential generator: int64 products wrap
TEXTS = 4096  # of either split at most in which features are counted
SELDOM = 0.1  # a count per text, below which a feature weighs hardly more than at it


def run(task: Task, settings: MomentsParams) -> MethodResult:
    """One candidate, the refined generator; none if no generator stayed within bounds."""
    text = GameText(task.data.shards("critic"), task.data.ids("validation"), task.data.tokenizer)
    rules = Reinforce(kl_weight=settings.kl_weight, kl_cap=settings.kl_cap, likelihood_every=settings.likelihood_every)
    game = Game(task.start.model, text, settings, task.seed, rules)
    train_T = torch.from_numpy(task.data.ids("train")[:COUNTED].astype("int64")).to(task.device)
    features = NGramCounts.of(train_T, settings.orders, settings.buckets, settings.prompt_length)
    length, seed = settings.prompt_length + settings.sequence_length, ("adversarial", "moments")
    real = [each_once(task, split, length, TEXTS, *seed) for split in ("train", "critic")]
    target = Target.of(features, *real)
    return play(task, "moments", game, partial(moments_step, features=features, target=target))


@dataclass(frozen=True)
class NGramCounts:
    """Which of F features each generated token has."""

    known: Sequence[Tensor]  # hashed n-grams of the training text, sorted, by order
    orders: Sequence[int]
    buckets: int  # of hashed n-grams, for each order
    prompt_length: int

    @classmethod
    def of(cls, train_T: Tensor, orders: Sequence[int], buckets: int, prompt_length: int) -> "NGramCounts":
        known = [torch.unique(hashes(train_T[None], n)[0, n - 1 :]) for n in orders]
        return cls(known, orders, buckets, prompt_length)

    @property
    def size(self) -> int:
        """F; a token that lacks a feature has number F in its place."""
        return len(self.orders) * (self.buckets + 1)

    def __call__(self, ids_BT: Tensor) -> Tensor:
        """feature_BSK: the bucket of the n-gram that ends at each generated token, and the feature of its order where
        the training text does not hold it. N-grams reach into the prompt; before its start there are none."""
        found = []
        for place, (n, known) in enumerate(zip(self.orders, self.known, strict=True)):
            hash_BS = hashes(ids_BT, n)[:, self.prompt_length :].contiguous()
            first = place * (self.buckets + 1)
            bucket_BS = first + (hash_BS ^ (hash_BS >> 33)).remainder(self.buckets)
            at_BS = torch.searchsorted(known, hash_BS).clamp_max(len(known) - 1)
            unknown_BS = torch.where(known[at_BS] == hash_BS, self.size, first + self.buckets)
            found += [bucket_BS, unknown_BS]
        return torch.stack(found, dim=-1)

    def counts(self, feature_BSK: Tensor) -> Tensor:
        """phi_BF: how often each text has each feature."""
        text_B11 = torch.arange(len(feature_BSK), device=feature_BSK.device)[:, None, None]
        flat = (feature_BSK + text_B11 * (self.size + 1)).flatten()
        return torch.bincount(flat, minlength=len(feature_BSK) * (self.size + 1)).float().view(len(feature_BSK), -1)

    def total(self, ids_BT: Tensor) -> Tensor:
        """(F + 1) the counts of all texts together."""
        return torch.stack([self.counts(self(part_BT)).sum(0) for part_BT in torch.split(ids_BT, 256)]).sum(0)


def hashes(ids_BT: Tensor, n: int) -> Tensor:
    """(B, T) the n-gram that ends at each token, as a number of 64 bits; at the first n - 1 tokens a shorter one."""
    hash_BT = torch.zeros_like(ids_BT)
    for back in reversed(range(n)):
        shifted_BT = F.pad(ids_BT + 1, (back, 0))[:, : ids_BT.size(1)]
        hash_BT = hash_BT * FACTOR + shifted_BT
    return hash_BT


@dataclass(frozen=True)
class Target:
    """What real text holds of each feature; the last, F, is none and weighs nothing."""

    mean_F: Tensor  # E phi(real), of one text
    weight_F: Tensor  # 1 / variance

    @classmethod
    def of(cls, features: NGramCounts, train_BT: Tensor, held_out_BT: Tensor) -> "Target":
        """N-grams are counted in both, those that the training text does not hold in `held_out_BT` alone."""
        train_F, held_out_F = (features.total(real_BT) for real_BT in (train_BT, held_out_BT))
        mean_F = (train_F + held_out_F) / (len(train_BT) + len(held_out_BT))
        unknown_N = torch.arange(1, len(features.orders) + 1, device=mean_F.device) * (features.buckets + 1) - 1
        mean_F[unknown_N] = held_out_F[unknown_N] / len(held_out_BT)
        weight_F = 1 / (mean_F + SELDOM)
        weight_F[-1] = 0
        return cls(mean_F, weight_F)


def distance(phi_BF: Tensor, target: Target) -> Tensor:
    """L of a batch, unbiased: pairs of different texts stand for the square of the mean. It can be below 0."""
    rest_BF = phi_BF - target.mean_F
    total_F = rest_BF.sum(0)
    pairs = (target.weight_F * (total_F.square() - rest_BF.square().sum(0))).sum()
    return pairs / (len(phi_BF) * (len(phi_BF) - 1))


def advantages(feature_BSK: Tensor, phi_BF: Tensor, target: Target) -> Tensor:
    """(B, S) the reward to go of each token, less the mean of the other texts' at the same place.

    What a text is compared with is computed without it: its own reward from the other texts' features, and the others'
    rewards from those of the rest, so that the gradient is unbiased. Needs B >= 3.
    """
    B = len(phi_BF)
    weight_BSK, mean_BSK = target.weight_F[feature_BSK], target.mean_F[feature_BSK]
    all_BSK = phi_BF.sum(0)[feature_BSK]
    own_BSK = phi_BF.gather(1, feature_BSK.flatten(1)).view_as(feature_BSK)
    reward_BS = (2 * weight_BSK * (mean_BSK - (all_BSK - own_BSK) / (B - 1))).sum(-1)
    baseline_BS = torch.empty_like(reward_BS)
    for left_out in range(B):
        rest_BSK = all_BSK - own_BSK - phi_BF[left_out][feature_BSK]
        without_BS = (2 * weight_BSK * (mean_BSK - rest_BSK / (B - 2))).sum(-1)
        baseline_BS[left_out] = (without_BS.sum(0) - without_BS[left_out]) / (B - 1)
    return reward_to_go(reward_BS - baseline_BS)


def moments_step(game: Game, draw: int, features: NGramCounts, target: Target) -> dict[str, float]:
    """One step of the generator towards the moments of real text; a `loop.Learn`."""
    ids_BT = game.fake(game.real(draw), draw)
    feature_BSK = features(ids_BT)
    phi_BF = features.counts(feature_BSK)
    figures = {"moments/distance": distance(phi_BF, target).item()}
    advantage_BS = normalised(advantages(feature_BSK, phi_BF, target))
    return figures | policy_step(game, ids_BT, advantage_BS, of_start(game, ids_BT))
