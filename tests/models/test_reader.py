"""What a discriminator reads of a text."""

import torch

from troupe.data.tokenizer import BytePairTokenizer
from troupe.models.reader import canonical


def test_what_a_discriminator_reads_is_spelt_as_the_tokenizer_spells() -> None:
    """Tokens 256 "th" and 257 "the"; of 16 tokens 14 are read. Spelt in single bytes, texts are read as real ones."""
    tokenizer = BytePairTokenizer("bpe", [*(bytes([byte]) for byte in range(256)), b"th", b"the"])
    text = "the theatre, then the path"
    real_T, bytes_T = tokenizer.encode(text)[:16], list(text.encode())
    assert len(real_T) == 16
    assert canonical(tokenizer, torch.tensor([real_T])).tolist() == [real_T[:14]]
    spelt_T = canonical(tokenizer, torch.tensor([bytes_T]))[0].tolist()
    assert len(spelt_T) == 26 - 26 // 8
    known = tokenizer.encode(text)
    assert spelt_T == known + known[-1:] * (len(spelt_T) - len(known))
