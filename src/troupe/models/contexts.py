"""What followed a context before: in the training text, in tables, and in the text so far.

A context is what stands before the next token: the last 1 to 12 tokens, or the word so far with up to two words before
it. A table holds the tokens that followed each context in the training text, and how often; a context is found by a
hash of 64 bits. Of the text so far, every earlier place is looked at whose last tokens are the last ones now: none of
them (all of the text) to 8.

Shapes: B texts, S tokens so far of which the last T are of interest, M = B * T places, K kinds of context, A = K * M,
L tokens that are looked back at, C contexts of the table and G followers, R rows, P pairs of places, V vocabulary.
"""

from typing import NamedTuple, Self

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from troupe.arrays import Ints
from troupe.data.dataset import Ids
from troupe.data.tokenizer import Tokenizer
from troupe.models.ngrams import COUNTED

ORDERS = (1, 2, 3, 4, 5, 6, 8, 12)  # tokens of a context
WORDS = 3  # contexts of words: the word so far; the same after the word before; after the two before
RECENT = (0, 1, 2, 3, 4, 6, 8)  # tokens that an earlier place of the text so far shares with the last ones, at least
LONGEST = 16  # tokens that are compared, for the longest of all matches; and that of a word count
KINDS = len(ORDERS) + WORDS  # of contexts of the table
SOURCES = KINDS + len(RECENT) + 1
MULTIPLIERS = (6364136223846793005, -7046029254386353131, -4417276706812531889)  # odd, for hashes modulo 2^64
POWERS = [(pow(MULTIPLIERS[0], back, 2**64) + 2**63) % 2**64 - 2**63 for back in range(LONGEST)]


class Rows(NamedTuple):
    """A row: at a place, one source has seen a token follow so often."""

    source_R: Tensor
    place_R: Tensor
    token_R: Tensor
    count_R: Tensor


class Contexts(nn.Module):
    """The table of the contexts of one text: C hashes in ascending order, and the followers of each side by side."""

    code_V: Tensor  # of each token a random number, of which hashes are made
    begins_V: Tensor  # whether a token begins a word: its first byte is no letter or digit
    hash_C: Tensor
    first_C: Tensor  # the first follower of each context; one more, where the last ones end
    token_G: Tensor
    count_G: Tensor

    def __init__(self, vocab_size: int, n_contexts: int, n_followers: int) -> None:
        super().__init__()
        self.register_buffer("code_V", torch.zeros(vocab_size, dtype=torch.int64))
        self.register_buffer("begins_V", torch.zeros(vocab_size, dtype=torch.bool))
        self.register_buffer("hash_C", torch.zeros(n_contexts, dtype=torch.int64))
        self.register_buffer("first_C", torch.zeros(n_contexts + 1, dtype=torch.int32))
        self.register_buffer("token_G", torch.zeros(n_followers, dtype=torch.int32))
        self.register_buffer("count_G", torch.zeros(n_followers, dtype=torch.int32))

    @classmethod
    def counted(cls, ids_N: Ids, tokenizer: Tokenizer) -> Self:
        """Of a text of at least two tokens, or of its first `COUNTED`."""
        found, ids_1N = cls(tokenizer.vocab_size, 0, 0), torch.from_numpy(ids_N[:COUNTED].astype(np.int64)).unsqueeze(0)
        codes = np.random.default_rng(0).integers(-(2**63), 2**63 - 1, tokenizer.vocab_size, dtype=np.int64)
        first_V = [tokenizer.decode_bytes([token])[:1] for token in range(tokenizer.vocab_size)]
        found.code_V = torch.from_numpy(codes)
        found.begins_V = torch.tensor([not (first.isalnum() or first > b"\x7f") for first in first_V])
        hash_KN, whole_KN = (of_all[:, 0] for of_all in found.hashes(ids_1N[:, :-1]))
        token_KN = ids_1N[:, 1:].expand_as(hash_KN)
        found._fill(hash_KN[whole_KN].numpy(), token_KN[whole_KN].numpy())
        return found

    def _fill(self, hash_I: Ints, token_I: Ints) -> None:
        """Count which token followed each context, at all I places of all kinds."""
        order_I = np.lexsort((token_I, hash_I))
        hash_I, token_I = hash_I[order_I], token_I[order_I]
        follower_G = np.flatnonzero(_changes(hash_I) | _changes(token_I))
        context_C = np.flatnonzero(_changes(hash_I[follower_G]))
        self.hash_C = torch.from_numpy(hash_I[follower_G][context_C])
        self.first_C = torch.from_numpy(np.append(context_C, len(follower_G)).astype(np.int32))
        self.token_G = torch.from_numpy(token_I[follower_G].astype(np.int32))
        self.count_G = torch.from_numpy(np.diff(follower_G, append=len(hash_I)).astype(np.int32))

    def size(self) -> tuple[int, int]:
        return len(self.hash_C), len(self.token_G)

    def hashes(self, ids_BS: Tensor) -> tuple[Tensor, Tensor]:
        """(hash_KBS, whole_KBS) of the contexts that end at each token, and whether the text holds all of them.

        An id below 0 stands for no token, before the first one of a shorter text.
        """
        device, known_BS, tokens_BS = ids_BS.device, ids_BS >= 0, ids_BS.clamp_min(0)
        place_BS = known_BS.cumsum(-1) - 1
        powers_L = torch.tensor(POWERS, device=device)
        code_BS = torch.where(known_BS, self.code_V[tokens_BS], 0)
        code_BSL = F.pad(code_BS, (LONGEST - 1, 0)).unfold(1, LONGEST, 1).flip(-1)
        hash_BSL = (code_BSL * powers_L).cumsum(-1)  # of the last 1, 2, ... tokens
        begun_BS = torch.where(known_BS & self.begins_V[tokens_BS], place_BS, 0).cummax(-1).values  # of the word so far
        length_BS = (place_BS - begun_BS).clamp(0, LONGEST - 1)
        word_BS = hash_BSL.gather(-1, length_BS.unsqueeze(-1)).squeeze(-1)
        end_BS = begun_BS - 1 + (~known_BS).sum(-1, keepdim=True)  # of the word before
        before_BS = torch.where(begun_BS > 0, word_BS.gather(-1, end_BS.clamp_min(0)), 0) * MULTIPLIERS[1]
        two_BS = torch.where(begun_BS > 0, before_BS.gather(-1, end_BS.clamp_min(0)), 0) * MULTIPLIERS[2] + before_BS
        orders_BSK = hash_BSL[..., [order - 1 for order in ORDERS]]
        hash_KBS = torch.cat([orders_BSK.movedim(-1, 0), torch.stack([word_BS, word_BS + before_BS, word_BS + two_BS])])
        kind_K11 = torch.arange(KINDS, device=device).view(-1, 1, 1)
        least_K11 = torch.tensor([*ORDERS, *[1] * WORDS], device=device).view(-1, 1, 1)
        return (hash_KBS + kind_K11) * MULTIPLIERS[0], place_BS + 1 >= least_K11

    @torch.no_grad()
    def forward(self, read_BS: Tensor, T: int) -> Rows:
        """All rows of the last T tokens of each text, as far as the text is known then."""
        of_table, of_text = self._followers(read_BS, T), recent(read_BS, T, len(self.code_V))
        return Rows(*(torch.cat(parts) for parts in zip(of_table, *of_text, strict=True)))

    def _followers(self, read_BS: Tensor, T: int) -> Rows:
        """The rows of the table."""
        hash_A, whole_A = (of_all[:, :, -T:].reshape(-1).contiguous() for of_all in self.hashes(read_BS))  # A: K * M
        at_A = torch.searchsorted(self.hash_C, hash_A).clamp_max(len(self.hash_C) - 1)
        known_A = (self.hash_C[at_A] == hash_A) & whole_A
        first_A = self.first_C[at_A].long()
        length_A = torch.where(known_A, self.first_C[at_A + 1] - first_A, 0)
        at_R = torch.repeat_interleave(length_A)
        follower_R = torch.arange(len(at_R), device=at_R.device) + (first_A - length_A.cumsum(0) + length_A)[at_R]
        M = len(read_BS) * T
        return Rows(at_R // M, at_R % M, self.token_G[follower_R].long(), self.count_G[follower_R].float())


def recent(read_BS: Tensor, T: int, vocab_size: int) -> tuple[Rows, Rows]:
    """The rows of the text so far: for each of RECENT what followed the places that share so many tokens with the last
    ones; and what followed the one that shares most, of equals the latest, the length of the match as its count."""
    (B, S), device = read_BS.shape, read_BS.device
    length_BTS, M, earlier_S = _shared(read_BS, T), B * T, torch.arange(S, device=device)
    earlier_BTS = (earlier_S < earlier_S[S - T :, None]) & (read_BS >= 0)[:, None]
    text_P, now_P, earlier_P = earlier_BTS.nonzero().unbind(-1)
    token_P = read_BS[text_P, earlier_P + 1]
    least_O = torch.tensor(RECENT, device=device)
    order_R, pair_R = (length_BTS[text_P, now_P, earlier_P] >= least_O.unsqueeze(-1)).nonzero().unbind(-1)
    key_R = ((order_R * M + (text_P * T + now_P)[pair_R]) * vocab_size) + token_P[pair_R]
    key_R, count_R = torch.unique(key_R, return_counts=True)
    source_R, place_R = key_R // vocab_size // M, key_R // vocab_size % M
    counted = Rows(KINDS + source_R, place_R, key_R % vocab_size, count_R.float())
    best_BT, at_BT = (length_BTS * S + earlier_S).max(-1)  # longer first, then later
    place_R = (best_BT >= S).flatten().nonzero().squeeze(-1)
    token_R = read_BS.gather(-1, (at_BT + 1).clamp_max(S - 1)).flatten()[place_R]
    longest = (best_BT // S).flatten()[place_R].float()
    return counted, Rows(torch.full_like(place_R, SOURCES - 1), place_R, token_R, longest)


def _shared(read_BS: Tensor, T: int) -> Tensor:
    """length_BTS: how many tokens up to each earlier one are those up to each of the last T; at most LONGEST."""
    S = read_BS.size(1)
    earlier_S = torch.arange(S, device=read_BS.device)
    shared_BTS = (earlier_S < earlier_S[S - T :, None]).expand(len(read_BS), T, S)
    length_BTS = torch.zeros_like(shared_BTS, dtype=torch.int64)
    padded = F.pad(read_BS, (LONGEST, 0), value=-1)
    for back in range(LONGEST):
        text_BS = padded[:, LONGEST - back : LONGEST - back + S]
        shared_BTS = shared_BTS & ((text_BS[:, S - T :, None] == text_BS[:, None]) & (text_BS >= 0)[:, None])
        if not shared_BTS.any():
            break
        length_BTS += shared_BTS
    return length_BTS


def _changes(value_I: Ints) -> NDArray[np.bool_]:
    """Where a value is another than the one before it; at the first place, too."""
    return np.append(True, value_I[1:] != value_I[:-1])[: len(value_I)]
