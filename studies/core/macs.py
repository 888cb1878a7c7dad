"""What a model costs to compute, in MACs: multiplications with their additions."""

from troupe.inspection.attention import attention_costs
from troupe.inspection.structure import parts
from troupe.models.gpt2 import GPT

TRAINING = 3  # forward passes that a forward and a backward pass are worth


def forward_macs(model: GPT) -> int:
    """Per token, mean over a context, of all matrix products of a model as it is computed."""
    return sum(part.executed for part in parts(model)) + attention_costs(model, model.config.block_size).full
