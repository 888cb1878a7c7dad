"""Attention taught, layer by layer, by the dense attention whose place it takes.

Every layer learns alone: it is given what the dense layer was given and is to put out what that put out, so that
nothing is propagated through the rest of the model, and all layers learn from one forward pass of the dense model.
Axes: B sequences, T tokens, D model width, L layers.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from troupe.compute import Autocast
from troupe.data.batches import Batches
from troupe.models.gpt2 import GPT, evaluating
from troupe.params import TrainParams
from troupe.training.loop import RunContext
from troupe.training.optim import build_optimizers, learning_rate_factor, precision_of_muon, set_rate
from troupe.training.parallel import Team
from troupe.training.stops import given_up, require_progress

Seen = list[tuple[Tensor, Tensor]]  # of each layer of attention what went in and what came out, both BTD


def distil(
    dense: GPT,
    model: GPT,
    batches: Batches,
    params: TrainParams,
    context: RunContext,
) -> list[float]:
    """Train the attention of `model`, in place, to put out what that of `dense` does; return the last errors, by layer.

    `context.log` gets distil/error: squared error over the square of what is to be put out, mean over layers;
    0 is perfect, 1 as good as no attention at all. `params` are those of the optimisers and of their schedule. In a
    team of several processes each computes on its share of every batch, and all take the same step, that of the whole.

    Raises Diverged, naming the step, if the error is not finite or the last one not below 1; and Interrupted, with
    nothing saved, after the step in progress, once `context.interrupted()` gives the number of a signal.
    """
    team, autocast = context.team_of(model), context.autocast
    layers = nn.ModuleList(attention_of(model))
    optimizers = build_optimizers(layers, params, precision_of_muon(autocast, team.device))
    errors: list[float] = []
    with evaluating(dense), evaluating(model):  # without dropout: what is to be learnt is a function
        for step in range(params.steps):
            set_rate(optimizers, learning_rate_factor(step, params))
            ids_BT = team.share(batches.batches(step)[0]).to(team.device)
            errors_L = _errors(layers, attention_seen(dense, ids_BT, autocast), autocast, team)
            errors_L.sum().backward()  # type: ignore[no-untyped-call]
            team.average_gradients(layers)
            *errors, asked_to_stop = team.means(*errors_L.detach(), context.interrupted())
            error = sum(errors) / len(errors)
            context.log(step + 1, {"distil/error": error})
            require_progress(error, step + 1, params.steps)
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()
            if asked_to_stop:
                raise given_up(step + 1, params.steps, context.interrupted())
    return errors


def attention_of(model: GPT) -> list[nn.Module]:
    """The layers of attention, first layer first."""
    return [block.get_submodule("attention") for block in model.blocks]


def attention_seen(dense: GPT, ids_BT: Tensor, autocast: Autocast) -> Seen:
    """What every layer of attention of `dense` is given and puts out on `ids_BT`, first layer first."""
    seen: Seen = []
    with _watching(dense, seen), torch.no_grad(), autocast():
        dense(ids_BT)
    return seen


def _errors(layers: nn.ModuleList, seen: Seen, autocast: Autocast, team: Team) -> Tensor:
    """(L,): those of this process's share; over the mean square of all shares, so that their mean is the batch's."""
    whole_L = team.mean(torch.stack([y_BTD.float().square().sum() for _, y_BTD in seen]))
    errors = []
    for layer, (x_BTD, y_BTD), whole in zip(layers, seen, whole_L, strict=True):
        with autocast():
            found_BTD = layer(x_BTD)
        errors.append((found_BTD.float() - y_BTD).square().sum() / whole)
    return torch.stack(errors)


@contextmanager
def _watching(dense: GPT, seen: Seen) -> Iterator[None]:
    def note(layer: nn.Module, given: tuple[Tensor, ...], out: Tensor) -> None:
        seen.append((given[0], out))

    handles = [layer.register_forward_hook(note) for layer in attention_of(dense)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
