"""A small discriminator over bytes, untrained: a critic that has opinions, whatever they are."""

import torch

from troupe.data.tokenizer import ByteTokenizer, Tokenizer
from troupe.models.config import GPTConfig
from troupe.models.discriminator import LSTMDiscriminator, init_discriminator
from troupe.models.gpt2 import GPT, init_gpt2
from troupe.models.reader import Discriminator, ReferenceFeatures

BYTES = ByteTokenizer()


def discriminator(seed: int = 1, tokenizer: Tokenizer = BYTES, references: int = 2) -> Discriminator:
    """References read 16 tokens. What the critic finds evident of a token is mostly within 1."""
    rng = torch.Generator().manual_seed(seed)
    features = ReferenceFeatures(*(reference(tokenizer.vocab_size, rng) for _ in range(references)))
    critic = LSTMDiscriminator(tokenizer.vocab_size, 8, 6, features.width, n_given=2)
    init_discriminator(critic, rng)
    some_NT = torch.randint(0, tokenizer.vocab_size, (64, 16), generator=rng)
    critic.standardise(features(some_NT))
    assert critic.evidence is not None
    with torch.no_grad():
        critic.head.weight.mul_(20)
        critic.evidence.weight.normal_(std=0.1, generator=rng)
    return Discriminator(critic.eval(), features, tokenizer)


def reference(vocab_size: int, rng: torch.Generator) -> GPT:
    model = GPT(GPTConfig(vocab_size=vocab_size, block_size=16, n_layer=1, n_head=2, n_embd=8, dropout=0.3))
    init_gpt2(model, rng)
    with torch.no_grad():
        model.token_embedding.weight.mul_(4)  # predictions that differ
    return model.eval()
