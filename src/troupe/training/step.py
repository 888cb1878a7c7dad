"""One step of training: a batch, its gradient, an update of the weights, and its figures. B sequences, T tokens."""

import time
from collections.abc import Callable, Mapping

from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from troupe.compute import compile_passes
from troupe.data.batches import Batches
from troupe.models.gpt2 import GPT
from troupe.params import TrainParams
from troupe.training.divergence import Watch, require_health
from troupe.training.loss import Autocast, cross_entropy
from troupe.training.muon import precision_of_muon
from troupe.training.optim import build_optimizers, set_rate, update
from troupe.training.parallel import Team
from troupe.training.schedule import learning_rate_factor

Figures = dict[str, float]


class Step:
    """The steps of one run, each a function of its number, the weights and the optimisers' state.

    `penalty()`, a scalar, is asked for after each forward pass and added to the loss that is differentiated.
    `compiled` has torch.compile fuse the forward and backward passes.
    """

    def __init__(
        self,
        model: GPT,
        batches: Batches,
        params: TrainParams,
        autocast: Autocast,
        team: Team,
        penalty: Callable[[], Tensor] | None,
        compiled: bool,
    ) -> None:
        self.model, self.batches, self.params = model, batches, params
        self.autocast, self.team, self.penalty = autocast, team, penalty
        self.forward = compile_passes(model, team.device) if compiled else model
        self.optimizers = build_optimizers(model, params, precision_of_muon(autocast, team.device))
        self.watch = Watch()

    def __call__(self, done: int, interrupted: Callable[[], int]) -> tuple[Figures, bool]:
        """Take the step after which `done` are done; returns its figures, and whether any process of the team has been
        asked to stop, as `interrupted()` tells each, so that all act upon it.

        Figures: train/loss (nats per token of the batch, without the penalty), train/penalty where there is one,
        train/grad_norm (before clipping), train/lr (of the first optimiser) and train/tokens_per_second.

        Raises Diverged, with the weights as they were, if loss or gradient is not finite or the gradient has exploded.
        """
        began = time.perf_counter()
        set_rate(self.optimizers, learning_rate_factor(done - 1, self.params))
        measured = self._differentiate(done - 1)
        figures, asked_to_stop = self._read(measured, interrupted())
        figures["train/lr"] = self.optimizers[0].param_groups[0]["lr"]
        require_health(self.watch, done, figures, self.params.steps)
        update(self.optimizers)
        tokens = self.batches.batch_size * self.batches.block_size
        return figures | {"train/tokens_per_second": tokens / (time.perf_counter() - began)}, asked_to_stop

    def _differentiate(self, number: int) -> dict[str, Tensor]:
        """Leave behind the gradient of the whole team's batch, clipped; what is returned is of this process's share."""
        x_BT, y_BT = (self.team.share(ids_BT).to(self.team.device) for ids_BT in self.batches.batches(number))
        loss = cross_entropy(self.forward, x_BT, y_BT, self.autocast)
        added = {"train/penalty": self.penalty()} if self.penalty else {}
        sum(added.values(), loss).backward()  # type: ignore[no-untyped-call]
        self.team.average_gradients(self.model)
        grad_norm = clip_grad_norm_(self.model.parameters(), self.params.grad_clip)
        return {"train/loss": loss, **added, "train/grad_norm": grad_norm}

    def _read(self, measured: Mapping[str, Tensor], signal_number: int) -> tuple[Figures, bool]:
        """The team's means, in one exchange and with one wait for the device."""
        *means, asked = self.team.means(*(value.detach() for value in measured.values()), signal_number)
        return dict(zip(measured, means, strict=True)), asked > 0
