"""A linear layer that is faster where some texts are generated side by side."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FEW_ROWS = (16, 32, 48)  # whole vectors of float32: so many make the product of `Linear` faster the other way around,
WIDE = 256  # if they are as wide


class Linear(nn.Linear):
    """nn.Linear, but where some texts are generated side by side, a token of each at a time, by y^T = W x^T.

    For 16 rows of float32, 384 to 1,536 wide, MKL needs 3/5 of the time of x W^T then. What comes out is strided, at a
    tenth of what is saved. It can go once `python -m benchmarks.generation` shows no difference for 16 texts.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not (self.in_features >= WIDE and _is_one_token_of_some_texts(x)):
            return F.linear(x, self.weight, self.bias)
        x_DB = x.squeeze(1).T
        y_FB = self.weight @ x_DB if self.bias is None else torch.addmm(self.bias.unsqueeze(1), self.weight, x_DB)
        return y_FB.T.unsqueeze(1)


def _is_one_token_of_some_texts(x: Tensor) -> bool:
    if torch.is_grad_enabled() or x.dim() != 3 or x.size(1) != 1 or x.size(0) not in FEW_ROWS:
        return False
    return x.dtype == torch.float32 and x.device.type == "cpu" and not torch.is_autocast_enabled("cpu")
