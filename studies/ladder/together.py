"""The models of several seeds as one: a step trains them all.

A step of a small model is bound by what each operation costs beside its arithmetic, and one operation on the weights of
all seeds costs that once. The models' own code does the work: only the layers that hold weights are exchanged, for ones
whose weights have an axis more. Axes: S seeds, B sequences of all seeds, those of the first seed first, T tokens, N
tokens of a seed, D model width, F features out, V vocabulary.
"""

from collections.abc import Sequence
from copy import deepcopy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from troupe.data.batches import Batches
from troupe.kernels.layers import dropout
from troupe.models.gpt2 import GPT
from troupe.models.layers import KVCache


class Together(GPT):
    """`model(ids_BT) -> logits_BTV`, where an equal share of the sequences belongs to each of `models`, which must be
    alike; it has copies of their weights."""

    def __init__(self, models: Sequence[GPT]) -> None:
        nn.Module.__init__(self)
        self.config = models[0].config
        for name, part in deepcopy(models[0]).named_children():
            self.add_module(name, part)
        for name, layer in [*self.named_modules()]:
            if kind := next((ours for theirs, ours in LAYERS.items() if isinstance(layer, theirs)), None):
                self.set_submodule(name, kind([model.get_submodule(name) for model in models]))

    def forward(self, ids_BT: Tensor, cache: KVCache | None = None) -> Tensor:
        x_BTD: Tensor = self.token_embedding(ids_BT)
        if not self.blocks or self.position_embedding is None:
            return x_BTD  # a bigram model's rows are logits
        position_STD = self.position_embedding.weight[:, : ids_BT.size(1)]
        x_BTD = x_BTD + position_STD.repeat_interleave(len(x_BTD) // len(position_STD), dim=0)
        x_BTD = dropout(x_BTD, self.config.dropout, self.training)
        for block in self.blocks:
            x_BTD = block(x_BTD)
        return _of_each(self.norm(x_BTD), self.token_embedding.weight)

    def write_to(self, models: Sequence[GPT]) -> None:
        """Copy the weights of each seed to its model."""
        weights = self.state_dict()
        for place, model in enumerate(models):
            model.load_state_dict({name: weight_S[place] for name, weight_S in weights.items()})


class Layer(nn.Module):
    """The weights, and if they have one the biases, of a layer of every seed."""

    weight: Tensor
    bias: Tensor

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        super().__init__()
        for name, _ in layers[0].named_parameters():
            weight_S = torch.stack([layer.get_parameter(name).detach() for layer in layers])
            self.register_parameter(name, nn.Parameter(weight_S))


class Embedding(Layer):
    def forward(self, ids_BT: Tensor) -> Tensor:
        S, V, _ = self.weight.shape
        first_S = torch.arange(0, S * V, V)  # of each seed's rows in one table of all
        return F.embedding(ids_BT + first_S.repeat_interleave(len(ids_BT) // S).unsqueeze(1), self.weight.flatten(0, 1))


class Linear(Layer):
    def forward(self, x_BTD: Tensor) -> Tensor:
        return _of_each(x_BTD, self.weight, self.bias)


class LayerNorm(Layer):
    def forward(self, x_BTD: Tensor) -> Tensor:
        S, D = self.weight.shape
        x_SND = F.layer_norm(x_BTD, (D,)).view(S, -1, D)  # torch's eps is nn.LayerNorm's
        return torch.addcmul(self.bias.unsqueeze(1), x_SND, self.weight.unsqueeze(1)).view_as(x_BTD)


LAYERS = {nn.Embedding: Embedding, nn.Linear: Linear, nn.LayerNorm: LayerNorm}


def _of_each(x_BTD: Tensor, weight_SFD: Tensor, bias_SF: Tensor | None = None) -> Tensor:
    """x W^T + b, of each seed with its own."""
    x_SND = x_BTD.reshape(len(weight_SFD), -1, x_BTD.size(2))
    y_SNF = x_SND @ weight_SFD.mT
    if bias_SF is not None:
        y_SNF = y_SNF + bias_SF.unsqueeze(1)
    return y_SNF.view(*x_BTD.shape[:2], -1)


class Joined(Batches):
    """The batches of every seed, each as it would have them alone, one after the other."""

    def __init__(self, parts: Sequence[Batches]) -> None:
        first = parts[0]
        super().__init__(first.ids, first.block_size, len(parts) * first.batch_size, first.seed)
        self.parts = parts

    def batches(self, step: int) -> tuple[Tensor, Tensor]:
        x_BT, y_BT = zip(*(part.batches(step) for part in self.parts), strict=True)
        return torch.cat(x_BT), torch.cat(y_BT)
