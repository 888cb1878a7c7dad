"""The ladder as data: twelve models from bigram to GPT, each the one before with one thing changed. From the table to
one head embeddings and positions come with it, and "deeper and wider" is two.

A learner reads this file from top to bottom; model.py builds what it describes.
"""

from dataclasses import dataclass, replace
from typing import Literal

from troupe.models.config import GPTConfig


@dataclass(frozen=True)
class Rung:
    """What a model has. Without layers it is a bigram model: a table of logits, a row per character."""

    name: str
    adds: str  # what it adds to the rung before, and what that should do to the loss
    lowers: bool = True  # whether by that sentence the validation loss is below that of the rung before
    n_layer: int = 0
    n_head: int = 1
    n_embd: int = 32
    mlp: int = 0  # hidden width of the MLP in units of n_embd; 0: no MLP
    residual: bool = False
    norm: Literal["none", "post", "pre"] = "none"  # LayerNorm after each sum, or before each part and after the last
    dropout: float = 0.0

    def config(self, vocab_size: int, block_size: int) -> GPTConfig:
        """The dimensions, as GPT knows them; of a bigram model those of its table."""
        if not self.n_layer:
            return GPTConfig(vocab_size, block_size, n_layer=1, n_head=1, n_embd=vocab_size, dropout=0.0)
        return GPTConfig(vocab_size, block_size, self.n_layer, self.n_head, self.n_embd, self.dropout)


BIGRAM = Rung("bigram", "A table: how likely each character is after the one before. It is where all others begin.")
HEAD = replace(
    BIGRAM,
    name="one head",
    adds="Self-attention mixes the characters of the context, so more than the last one counts: the loss falls.",
    n_layer=1,
)
HEADS = replace(
    HEAD,
    name="four heads",
    adds="Four narrow heads look at four places at once, for the same number of parameters: the loss falls.",
    n_head=4,
)
MLP = replace(
    HEADS,
    name="MLP",
    adds="An MLP computes with what attention has brought to each place: the loss falls.",
    mlp=1,
)
BLOCKS = replace(
    MLP,
    name="three blocks",
    adds="Three blocks compute more, but each must pass on all that the next one needs: the loss need not fall.",
    lowers=False,
    n_layer=3,
)
RESIDUAL = replace(
    BLOCKS,
    name="residual connections",
    adds="Each part adds to its input, so that gradients reach every block: the loss falls.",
    lowers=True,
    residual=True,
)
WIDE = replace(
    RESIDUAL,
    name="wider MLP",
    adds="An MLP four times as wide, as GPT-2's, holds more parameters: the loss falls.",
    mlp=4,
)
POST = replace(
    WIDE,
    name="post-norm",
    adds="LayerNorm after each sum, as the first Transformer had it, puts a norm into the residual path: without a "
    "warm-up of the rate the loss need not fall.",
    lowers=False,
    norm="post",
)
PRE = replace(
    POST,
    name="pre-norm",
    adds="LayerNorm before each part leaves the residual path free, as in GPT-2: the loss falls.",
    lowers=True,
    norm="pre",
)
DROPOUT = replace(
    PRE,
    name="dropout",
    adds="Dropout keeps a large model from learning its text by heart. This one is small: the loss need not fall.",
    lowers=False,
    dropout=0.1,
)
LARGER = replace(
    DROPOUT,
    name="deeper and wider",
    adds="Six blocks of twice the width hold eight times the parameters: the loss falls.",
    lowers=True,
    n_layer=6,
    n_embd=64,
)
LARGEST = replace(
    LARGER,
    name="1.2M parameters",
    adds="Twice the width again, in the class and with the parts of GPT-2 that the pipeline has, too: the loss falls.",
    n_embd=128,
)
LADDER = (BIGRAM, HEAD, HEADS, MLP, BLOCKS, RESIDUAL, WIDE, POST, PRE, DROPOUT, LARGER, LARGEST)
