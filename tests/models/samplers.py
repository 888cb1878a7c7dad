"""A small sampler over bytes, untrained: a critic that has opinions, whatever they are."""

import torch

from troupe.data.tokenizer import ByteTokenizer
from troupe.models.bundle import Resampling
from troupe.models.config import GPTConfig
from troupe.models.discriminator import LSTMDiscriminator, init_discriminator
from troupe.models.features import ReferenceFeatures
from troupe.models.gpt2 import GPT, init_gpt2
from troupe.models.reader import Discriminator


def sampler(candidates: int = 4, span: int = 5, context: int = 12, seed: int = 1) -> Resampling:
    rng = torch.Generator().manual_seed(seed)
    reference = GPT(GPTConfig(vocab_size=256, block_size=16, n_layer=1, n_head=2, n_embd=8, dropout=0.3))
    init_gpt2(reference, rng)
    features = ReferenceFeatures(reference.eval())
    critic = LSTMDiscriminator(256, 8, 6, features.width)
    init_discriminator(critic, rng)
    with torch.no_grad():
        critic.head.weight.mul_(20)
    return Resampling(Discriminator(critic.eval(), features, ByteTokenizer()), candidates, span, context)
