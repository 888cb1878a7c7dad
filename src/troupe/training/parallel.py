"""Data parallelism: one stage, several processes, each with an equal share of every batch. B sequences, T tokens.

Every process holds the whole model, reads the same checkpoint and takes the same step: gradients are averaged over the
processes once they are computed, in one exchange of fixed layout, so that a resumed run adds the same numbers in the
same order. (DistributedDataParallel, which exchanges while it computes, lays its buckets out anew after the first step
of every start.) launch.py starts the processes.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from troupe.errors import ArtifactError, ParamsError
from troupe.params import RunParams

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Team:
    """The processes that train one model, seen by one of them. Rank 0 leads: it alone validates, writes and shows."""

    rank: int = 0
    size: int = 1
    device: torch.device = CPU

    @property
    def leads(self) -> bool:
        return self.rank == 0

    def share(self, ids_BT: Tensor) -> Tensor:
        """This process's rows of a batch, [B / size, T]."""
        return ids_BT.chunk(self.size)[self.rank]

    def average_gradients(self, model: nn.Module) -> None:
        """Replace every gradient by its mean over the processes: that of the whole batch, as shares are equal."""
        if self.size > 1:
            gradients = [weight.grad for weight in model.parameters() if weight.grad is not None]
            flat = parameters_to_vector(gradients)
            dist.all_reduce(flat)
            vector_to_parameters(flat.div_(self.size), gradients)  # in place: it is as large as the model

    def mean(self, value: Tensor) -> Tensor:
        """The mean of a tensor, element by element, over the processes: where there is one, the tensor itself."""
        if self.size == 1:
            return value
        total = value.detach().clone()
        dist.all_reduce(total)
        return total / self.size

    def means(self, *values: Tensor | float) -> list[float]:
        """The mean of each figure over the processes; one exchange and one wait for the device."""
        stacked = torch.stack([torch.as_tensor(value, dtype=torch.float32, device=self.device) for value in values])
        means: list[float] = self.mean(stacked).tolist()
        return means

    def gather(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Every process's tensors, which are alike in shape, as "<rank>.<name>"."""
        return {f"{rank}.{name}": part for name, mine in tensors.items() for rank, part in enumerate(self._all(mine))}

    def require_same(self, start: str) -> None:
        """Raises ArtifactError unless `start`, what a training goes on from, is the same text in every process.

        It is not where machines do not share their storage, or where one of them still sees an older state of it.
        """
        digest = torch.tensor(list(hashlib.sha256(start.encode()).digest()), dtype=torch.uint8)
        digests = list(self.gather({"start": digest}).values())
        if others := [rank for rank, other in enumerate(digests) if not other.equal(digests[0])]:
            raise ArtifactError(
                f"process {others[0]} does not start from what process 0 starts from: all machines must see one folder "
                "(parameters, code, artifacts, .troupe/checkpoints) and have the same torch"
            )

    def _all(self, mine: Tensor) -> list[Tensor]:
        if self.size == 1:
            return [mine]
        parts = [torch.empty_like(mine, device=self.device) for _ in range(self.size)]
        dist.all_gather(parts, mine.to(self.device))
        return [part.to(mine.device) for part in parts]


def team_of(run: RunParams, device: torch.device) -> Team:
    """The team that this process has joined, of itself alone unless `run.processes` is more than 1.

    Raises ParamsError where it has not been started as one of that many.
    """
    team = Team(dist.get_rank(), dist.get_world_size(), device) if dist.is_initialized() else Team(device=device)
    if team.size != run.processes:
        raise ParamsError(f"run.processes: {run.processes} asked for, but {team.size} started; run the stage's command")
    return team


def leads() -> bool:
    """Whether this process is the one of its team that writes: every process that trains alone is."""
    return not dist.is_initialized() or dist.get_rank() == 0
