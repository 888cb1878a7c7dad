"""The expert model's next-token probabilities, reweighted in rounds against what it then generates.

Nine numbers combine the model with an n-gram model of the training tokens (models/tilted.py). Each round fits them by
direct discriminative optimization: the model is its own discriminator of real text, the critic's split, which no model
was trained on, against what it generates now. Whether a round had a signal is measured on validation text; the first
that had none is the last.

ln p_new(x) / p_now(x) is the discriminator's score (ddo.py). Both densities are exact, so that no second network is
trained and no reward is estimated; few numbers are fitted, so that some hundred texts are enough and L-BFGS (Liu &
Nocedal 1989) finds the minimum. Unlike likelihood, which compares after real text only, the texts that count were
continued from the model's own words.

Shapes: N texts, B of them at a time, T tokens, V vocabulary, K numbers of the tilt.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from troupe.adversarial.discrimination import Interval, auc_interval
from troupe.adversarial.method import Facts, MethodResult, Task
from troupe.adversarial.texts import HELD_OUT, continued, each_once, side_by_side
from troupe.data.corpus import Split
from troupe.models.gpt2 import evaluating
from troupe.models.ngrams import NGrams
from troupe.models.tilted import Evidence, Tilted, tilted
from troupe.params import TiltParams
from troupe.training.stops import signals_noted

KEPT = 2**28  # floats of each kind of text, 1 GB: what is said of more is computed anew whenever it is read
AT_ONCE = 2**17  # floats of one kind that are read at a time, few enough for a core's cache; one text at the least
STEPS = 20  # of L-BFGS: later ones move nothing that shows
PULL = 1e-3  # towards where a fit starts, of the squared distance: what texts leave open stays as it is
CONFIDENCE = 0.95
Loss = tuple[float, Tensor]  # at a tilt, and its gradient
SHOWN = "adversarial: tilt"  # in progress lines
PURPOSE = ("adversarial", "tilt")  # of random numbers


class Texts(NamedTuple):
    """Real sequences, each a prompt and its continuation, and what the model generated after the same prompts."""

    real_NT: Tensor
    written_NT: Tensor


@dataclass(frozen=True)
class Round:
    """What the discriminator of one round found in texts held out: its AUC, and its cross-entropy in nats."""

    interval: Interval
    cross_entropy: float  # ln 2 = 0.693 where both kinds are alike

    @property
    def signal(self) -> bool:
        """Whether it can tell at all."""
        return self.interval.low > 0.5


class Continuations(NamedTuple):
    """Continuations: what both models say of each of their tokens, and the tokens."""

    evidence: Evidence
    ids_BT: Tensor

    def log_prob(self, tilt: Tensor) -> Tensor:
        """log p_B, in nats."""
        logits_BTV = self.evidence.logits(tilt)
        drawn_BT = logits_BTV.gather(-1, self.ids_BT.unsqueeze(-1)).squeeze(-1)
        return (drawn_BT - logits_BTV.logsumexp(-1)).sum(-1)

    def log_prob_and_slope(self, tilt: Tensor) -> tuple[Tensor, Tensor]:
        """log p_B and its gradient, slope_BK for the K numbers of the tilt: phi of each token less phi's mean under p.

        In half the time that autograd takes.
        """
        _, z_1, z_2, H_1, H_2 = self.evidence
        logits_BTV, drawn_BT1 = self.evidence.logits(tilt), self.ids_BT.unsqueeze(-1)
        logp_BTV = logits_BTV.sub_(logits_BTV.logsumexp(-1, keepdim=True))
        log_p_B = logp_BTV.gather(-1, drawn_BT1).sum((1, 2))
        p_BTV = logp_BTV.exp_()
        p_1, p_2 = p_BTV * z_1, p_BTV * z_2
        means = [part.sum(-1, keepdim=True) for part in (p_1, p_2, p_1 * z_1, p_1 * z_2, p_2 * z_2)]
        d_1, d_2 = z_1.gather(-1, drawn_BT1), z_2.gather(-1, drawn_BT1)
        one, two, *squares = (
            x - mean for x, mean in zip((d_1, d_2, d_1 * d_1, d_1 * d_2, d_2 * d_2), means, strict=True)
        )
        slopes = [one, two, *squares, H_1 * one, H_2 * one, H_1 * two, H_2 * two]
        return log_p_B, torch.cat(slopes, dim=-1).sum(1)


def run(task: Task, settings: TiltParams) -> MethodResult:
    """A candidate of every round with a signal. Equal arguments give equal weights, to the byte.

    Raises CorpusError for a split that is shorter than the model's context, and Interrupted: nothing is saved before
    the end.
    """
    with signals_noted("while the model was tilted"):
        rounds, models = all_rounds(task, settings)
    reason = f"{len(models)} of {len(rounds)} rounds with a signal; the last: {description(rounds[-1])}"
    facts: Facts = {"rounds": len(rounds), "rounds_with_signal": len(models), **figures(rounds[-1])}
    return MethodResult({f"tilt_{n}": model for n, model in enumerate(models, 1)}, facts, reason)


def all_rounds(task: Task, settings: TiltParams) -> tuple[list[Round], list[Tilted]]:
    """Every round, and the model as each that had a signal left it; each is logged."""
    data, start = task.data, task.start.model
    counted = NGrams.counted(data.ids("train"), settings.order, task.start.tokenizer.vocab_size)
    model, rounds, models = tilted(start, counted), list[Round](), list[Tilted]()
    task.context.log(0, {"val/bpb": task.bits_per_byte(start)})  # tilted by zeros it predicts what the start predicts
    splits: dict[Split, int] = {"critic": settings.texts, "validation": HELD_OUT}  # at most
    length = model.config.block_size
    real = {split: each_once(task, split, length, n, *PURPOSE, split) for split, n in splits.items()}
    for number in range(1, settings.rounds + 1):
        train, held_out = (
            with_generated(model, real_NT, task, settings, split, number) for split, real_NT in real.items()
        )
        rounds.append(ddo_round(model, train, held_out, settings.prompt_length))
        if rounds[-1].signal:
            models.append(copy.deepcopy(model))
        bits = task.bits_per_byte(models[-1] if models else start)
        task.context.log(number, {**figures(rounds[-1]), "val/bpb": bits})
        print(f"{SHOWN} {number}/{settings.rounds}: {description(rounds[-1])}, {bits:.3f} bits per byte", flush=True)
        if not rounds[-1].signal:
            break
    return rounds, models


def with_generated(
    model: Tilted, real_NT: Tensor, task: Task, settings: TiltParams, split: Split, number: int
) -> Texts:
    """Real sequences, and what the model generates now after the same prompts."""

    def generate(real_BT: Tensor, seeds: Sequence[int]) -> Tensor:
        return continued(model, real_BT, settings.prompt_length, seeds)

    shown = f"{SHOWN} {number}/{settings.rounds}, {split} texts"
    parts = side_by_side(generate, model, real_NT, task, shown, *PURPOSE, split, number)
    return Texts(real_NT, torch.cat(parts))


def figures(found: Round) -> dict[str, float]:
    """As they are logged."""
    return {"auc": found.interval.auc, "auc_low": found.interval.low, "cross_entropy": found.cross_entropy}


def description(found: Round) -> str:
    seen = found.interval
    return f"{'signal' if found.signal else 'no signal'}: AUC {seen.auc:.3f} ({seen.low:.3f} to {seen.high:.3f})"


def by_likelihood(model: Tilted, real_NT: Tensor, n_given: int) -> None:
    """Move the tilt to where the continuations of the first `n_given` tokens are likeliest."""
    continued, start = read(model, real_NT, n_given), model.tilt.detach().clone()
    n_tokens = real_NT[:, n_given:].numel()

    def loss(tilt: Tensor) -> Loss:
        return summed(continued(), tilt, lambda log_p_B: -log_p_B.sum() / n_tokens)

    model.tilt.data.copy_(minimised(loss, start))


def ddo_round(model: Tilted, train: Texts, held_out: Texts, n_given: int) -> Round:
    """Move the tilt by one round, in place. `written_NT` of both is what the model writes as it is now.

    Deterministic. Costs some `STEPS` passes over what both models say of all tokens of all texts; and a forward pass of
    every text, or one for each of those where there is no room to keep it (`KEPT`).
    """
    real, written = (read(model, ids_NT, n_given) for ids_NT in train)
    start, n = model.tilt.detach().clone(), 2 * len(train.real_NT)
    now = [[part.log_prob(start) for part in parts()] for parts in (real, written)]

    def loss(tilt: Tensor) -> Loss:
        of_real, of_written = map(iter, now)
        cost, slope = summed(real(), tilt, lambda log_p_B: F.softplus(next(of_real) - log_p_B).sum() / n)
        more, steeper = summed(written(), tilt, lambda log_p_B: F.softplus(log_p_B - next(of_written)).sum() / n)
        return cost + more, slope + steeper

    model.tilt.data.copy_(minimised(loss, start))
    return measured(model, held_out, start, n_given)


@torch.no_grad()
def measured(model: Tilted, texts: Texts, before: Tensor, n_given: int) -> Round:
    """How well ln p(x) / p_before(x) separates real text from what was generated with the tilt `before`."""
    real_N, written_N = (
        torch.cat([part.log_prob(model.tilt) - part.log_prob(before) for part in read(model, ids_NT, n_given)()])
        for ids_NT in texts
    )
    cost = (F.softplus(-real_N).mean() + F.softplus(written_N).mean()) / 2
    return Round(auc_interval(real_N, written_N, CONFIDENCE), cost.item())


def read(model: Tilted, ids_NT: Tensor, n_given: int) -> Callable[[], Iterator[Continuations]]:
    """The continuations in parts, as often as one likes: kept if there is room, else computed anew each time."""
    vocab_size = model.config.vocab_size

    @torch.no_grad()
    def parts() -> Iterator[Continuations]:
        for ids_BT in torch.split(ids_NT, max(1, AT_ONCE // (ids_NT.size(1) * vocab_size))):
            with evaluating(model):
                evidence = model.evidence(ids_BT)
            yield Continuations(
                Evidence(*(whole[:, n_given - 1 : -1].clone() for whole in evidence)), ids_BT[:, n_given:]
            )

    if 3 * ids_NT.numel() * vocab_size > KEPT:
        return parts
    kept: Sequence[Continuations] = list(parts())
    return lambda: iter(kept)


def summed(parts: Iterator[Continuations], tilt: Tensor, cost: Callable[[Tensor], Tensor]) -> Loss:
    """The sum of `cost`, of log p_B, over all parts, one after the other."""
    total, slope_K = 0.0, torch.zeros_like(tilt)
    for part in parts:
        log_p_B, slope_BK = part.log_prob_and_slope(tilt)
        of_part = cost(log_p_B.requires_grad_())
        (weight_B,) = torch.autograd.grad(of_part, log_p_B)
        total += of_part.item()
        slope_K += weight_B @ slope_BK
    return total, slope_K


def minimised(loss: Callable[[Tensor], Loss], start: Tensor) -> Tensor:
    """Where a loss is least near `start`."""
    tilt = start.clone().requires_grad_()
    optimizer = torch.optim.LBFGS([tilt], max_iter=STEPS, line_search_fn="strong_wolfe")

    def closure() -> float:
        moved = tilt.detach() - start
        cost, slope = loss(tilt.detach())
        tilt.grad = slope + 2 * PULL * moved
        return cost + PULL * moved.square().sum().item()

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    return tilt.detach()
