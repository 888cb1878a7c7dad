"""What a language model is built from."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class GPTConfig:
    """The dimensions, and where a model departs from GPT-2, which is what the defaults give exactly."""

    vocab_size: int
    block_size: int  # tokens of context
    n_layer: int
    n_head: int
    n_embd: int
    dropout: float  # of embeddings and of what joins the residual stream; attention weights are left whole
    positions: Literal["learned", "rotary"] = "learned"
    norm: Literal["layer", "rms"] = "layer"
    activation: Literal["gelu", "relu2", "swiglu"] = "gelu"
    qk_norm: bool = False
    conv: int = 0  # tokens that convolutions before attention and MLP mix; 0 for none
    bias: bool = True
    head_width: int | None = None  # of queries, keys and values; None: n_embd / n_head

    @property
    def attention_width(self) -> int:
        """Of the queries of all heads together, side by side."""
        return self.n_head * (self.head_width or self.n_embd // self.n_head)
