"""The language model of the oracle study, which oracle and generators share, and what is measured of it.

An LSTM reads embeddings and a linear layer reads its state. A sequence is START and the S tokens after it, as in SeqGAN
(Yu et al. 2017, arXiv:1609.05473, section 4): START is a prompt of one token, in the words of reinforce.py.

Shapes: N or B sequences, T = S + 1 tokens with START, V vocabulary, H width.
"""

import math

import torch
from torch import Tensor, nn

from troupe.adversarial.reinforce import likelihood_loss
from troupe.decoding import apply_temperature, draw

START = 0
PROMPT = 1  # tokens of a sequence that nobody wrote: START
AT_ONCE = 64  # sequences: their logits, V for each token, stay near the processor; 250 take twice as long


class LSTMLanguageModel(nn.Module):
    """ids_BT -> logits_BTV of the token after each."""

    def __init__(self, vocab_size: int, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, width)
        self.lstm = nn.LSTM(width, width, batch_first=True)
        self.head = nn.Linear(width, vocab_size)
        second_bias = self.lstm.get_parameter("bias_hh_l0")  # PyTorch's LSTM adds two, SeqGAN's has one
        nn.init.zeros_(second_bias).requires_grad_(False)

    def forward(self, ids_BT: Tensor) -> Tensor:
        hidden_BTH, _ = self.lstm(self.embedding(ids_BT))
        logits_BTV: Tensor = self.head(hidden_BTH)
        return logits_BTV


def make_oracle(vocab_size: int, width: int, rng: torch.Generator) -> LSTMLanguageModel:
    """SeqGAN's oracle: every weight, embeddings and biases among them, from N(0, 1)."""
    model = LSTMLanguageModel(vocab_size, width)
    for parameter in _learned(model):
        nn.init.normal_(parameter, generator=rng)
    return model.requires_grad_(False)


def make_generator(vocab_size: int, width: int, rng: torch.Generator) -> LSTMLanguageModel:
    """Untrained: embeddings from N(0, 1), all else uniform within 1/sqrt(width), PyTorch's defaults."""
    model = LSTMLanguageModel(vocab_size, width)
    for parameter in _learned(model):
        nn.init.uniform_(parameter, -1 / math.sqrt(width), 1 / math.sqrt(width), generator=rng)
    nn.init.normal_(model.embedding.weight, generator=rng)
    return model


@torch.no_grad()
def sample(model: LSTMLanguageModel, n: int, length: int, rng: torch.Generator, temperature: float = 1.0) -> Tensor:
    """ids_NT: START and `length` tokens that the model, at a temperature, writes after it."""
    sizes = [min(AT_ONCE, n - done) for done in range(0, n, AT_ONCE)]
    return torch.cat([_write(model, size, length, rng, temperature) for size in sizes])


def _write(model: LSTMLanguageModel, B: int, length: int, rng: torch.Generator, temperature: float) -> Tensor:
    ids, state = [torch.full((B, 1), START)], None
    for _ in range(length):
        hidden_B1H, state = model.lstm(model.embedding(ids[-1]), state)
        logits_BV = apply_temperature(model.head(hidden_B1H.squeeze(1)), temperature)
        ids.append(draw(logits_BV, torch.rand(B, 1, generator=rng, dtype=torch.float64)))
    return torch.cat(ids, dim=1)


@torch.no_grad()
def nll(model: LSTMLanguageModel, ids_NT: Tensor, temperature: float = 1.0) -> float:
    """- (1 / NS) sum over sequences and tokens of ln p(token | those before it), at a temperature: nats per token.

    SeqGAN's published figures are means over tokens, too: its code divides by sequence_length * batch_size
    (target_lstm.py, pretrain_loss), though equation 9 of the paper is written as a sum over a sequence.
    """
    total = 0.0
    for ids_BT in torch.split(ids_NT, AT_ONCE):
        total += len(ids_BT) * likelihood_loss(lambda ids: model(ids) / temperature, ids_BT, PROMPT).item()
    return total / len(ids_NT)


def _learned(model: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]
