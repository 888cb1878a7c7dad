"""The four architectures, from the configurations of `transformers`: how each is trained, and how each fills a blank.

Devlin et al. 2018, "BERT"; Radford et al. 2019, "Language Models are Unsupervised Multitask Learners" (GPT-2); Lewis
et al. 2019, "BART"; Raffel et al. 2019, "Exploring the Limits of Transfer Learning" (T5).

Shapes: B windows, T tokens, N spans of L tokens, P tokens of a prompt, V words of the vocabulary.
"""

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    T5Config,
    T5ForConditionalGeneration,
)

from studies.architectures.settings import Common
from studies.architectures.spans import (
    Words,
    draw_places,
    draw_spans,
    masked,
    span_targets,
    spans_of,
    without_spans,
)

AT_ONCE = 256  # sequences that are ranked at a time


class Family(ABC):
    """An architecture with its objective. `model` may be any of its size, trained or not."""

    name: ClassVar[str]
    attention: ClassVar[str]  # in a word
    generates: ClassVar[bool] = True

    def __init__(self, words: Words, common: Common) -> None:
        self.words, self.common, self.shape = words, common, common.shape
        self.model: Any = self._build()

    @abstractmethod
    def _build(self) -> nn.Module: ...

    @abstractmethod
    def loss(self, ids_BT: Tensor, rng: torch.Generator) -> Tensor:
        """The objective that the architecture was published with, a mean in nats per predicted token."""

    @abstractmethod
    def continuation(self, ids_BT: Tensor, P: int) -> Tensor | None:
        """nats_B of the tokens after the first P given those; None where the model defines no such probability."""

    @abstractmethod
    def fill(self, ids_BT: Tensor, place_B: Tensor) -> Tensor:
        """word_B: the likeliest word at one place of each window, which the model does not see."""

    @abstractmethod
    def fill_span(self, ids_BT: Tensor, start_B: Tensor, L: int) -> Tensor:
        """ids_BL: what it puts into a gap of L tokens, word after word the likeliest."""

    def asked_to_write(self, prompt_BP: Tensor) -> dict[str, Tensor]:
        """What `generate` of transformers is given so that it goes on after a prompt."""
        return {"input_ids": prompt_BP}

    def _nats(self, logits_BTV: Tensor, ids_BT: Tensor) -> Tensor:
        """nats_BT among the words of the tokenizer, whatever a model thinks of the others."""
        return _cross_entropy(logits_BTV[..., : self.words.known], ids_BT)

    def _known(self, logits: Tensor) -> Tensor:
        """The likeliest word of the tokenizer's."""
        return logits[..., : self.words.known].argmax(-1)


class GPT2(Family):
    name, attention = "GPT-2", "causal"

    def _build(self) -> nn.Module:
        shape = self.shape
        config = GPT2Config(
            vocab_size=self.words.all,
            n_positions=shape.context,
            n_embd=shape.width,
            n_layer=shape.layers,
            n_head=shape.heads,
            n_inner=shape.hidden,
            **_each(shape.dropout, "resid_pdrop", "embd_pdrop", "attn_pdrop"),
            **_no_ends(self.words),
        )
        return GPT2LMHeadModel(config)

    def loss(self, ids_BT: Tensor, rng: torch.Generator) -> Tensor:
        return _cross_entropy(self.model(ids_BT).logits[:, :-1], ids_BT[:, 1:]).mean()

    def continuation(self, ids_BT: Tensor, P: int) -> Tensor:
        return self._nats(self.model(ids_BT).logits[:, P - 1 : -1], ids_BT[:, P:]).sum(1)

    def fill(self, ids_BT: Tensor, place_B: Tensor) -> Tensor:
        """By ranking: the word with which the whole window is likeliest. It costs V passes."""
        found = []
        for ids_T, place in zip(ids_BT, place_B, strict=True):
            ids_VT = ids_T.repeat(self.words.known, 1)
            ids_VT[:, place] = torch.arange(self.words.known)
            nats = [self._nats(self.model(part).logits[:, :-1], part[:, 1:]).sum(1) for part in ids_VT.split(AT_ONCE)]
            found.append(torch.cat(nats).argmin())
        return torch.stack(found)

    def fill_span(self, ids_BT: Tensor, start_B: Tensor, L: int) -> Tensor:
        """From the left alone: what follows the gap it cannot take into account."""
        return _word_by_word(ids_BT, start_B, L, lambda ids: self._known(self.model(ids).logits), shift=1)


class BERT(Family):
    name, attention, generates = "BERT", "bidirectional", False

    def _build(self) -> nn.Module:
        shape = self.shape
        config = BertConfig(
            vocab_size=self.words.all,
            hidden_size=shape.width,
            num_hidden_layers=shape.layers,
            num_attention_heads=shape.heads,
            intermediate_size=shape.hidden,
            max_position_embeddings=shape.context,
            hidden_dropout_prob=shape.dropout,
            attention_probs_dropout_prob=shape.dropout,
            pad_token_id=self.words.pad,
        )
        return BertForMaskedLM(config)

    def loss(self, ids_BT: Tensor, rng: torch.Generator) -> Tensor:
        place_BN = draw_places(ids_BT, self.common.spans * self.common.span_length, rng)
        logits_BTV = self.model(masked(ids_BT, place_BN, self.words, rng)).logits
        logits_BNV = logits_BTV.gather(1, place_BN[..., None].expand(-1, -1, logits_BTV.size(-1)))
        return _cross_entropy(logits_BNV, ids_BT.gather(1, place_BN)).mean()

    def continuation(self, ids_BT: Tensor, P: int) -> None:
        """What it gives to each word depends on all others, those after it too: no probability of a text."""
        return

    def fill(self, ids_BT: Tensor, place_B: Tensor) -> Tensor:
        return self.fill_span(ids_BT, place_B, 1)[:, 0]

    def pseudo_nats(self, ids_BT: Tensor) -> Tensor:
        """nats_B: of every word given all others, added up. It is no probability of the window."""
        T = ids_BT.size(1)
        total_B = torch.zeros(len(ids_BT))
        for place in range(T):
            hidden_BT = ids_BT.clone()
            hidden_BT[:, place] = self.words.mask
            total_B += self._nats(self.model(hidden_BT).logits[:, place : place + 1], ids_BT[:, place, None])[:, 0]
        return total_B

    def fill_span(self, ids_BT: Tensor, start_B: Tensor, L: int) -> Tensor:
        """All places at once, each as if the others were unknown."""
        place_BL = start_B[:, None] + torch.arange(L)
        return self._known(self.model(ids_BT.scatter(1, place_BL, self.words.mask)).logits).gather(1, place_BL)


class EncoderDecoder(Family):
    """What BART and T5 share: an input that lacks something, and a decoder that has so far written `given`."""

    def _decoded(self, input_BS: Tensor, given_BT: Tensor) -> Tensor:
        return torch.as_tensor(self.model(input_ids=input_BS, decoder_input_ids=given_BT).logits)

    def _after(self, start: int, ids_BT: Tensor) -> Tensor:
        """What the decoder is given so that it predicts each of `ids_BT`."""
        return F.pad(ids_BT, (1, 0), value=start)[:, :-1]


class BART(EncoderDecoder):
    name, attention = "BART", "bidirectional encoder, causal decoder with cross-attention"

    def _build(self) -> nn.Module:
        shape = self.shape
        config = BartConfig(
            vocab_size=self.words.all,
            d_model=shape.width,
            encoder_layers=shape.layers // 2,
            decoder_layers=shape.layers // 2,
            **_each(shape.heads, "encoder_attention_heads", "decoder_attention_heads"),
            **_each(shape.hidden_of_two, "encoder_ffn_dim", "decoder_ffn_dim"),
            max_position_embeddings=shape.context + 2,
            dropout=shape.dropout,
            attention_dropout=shape.dropout,
            decoder_start_token_id=self.words.begin,
            forced_eos_token_id=None,
            **_no_ends(self.words),
        )
        return BartForConditionalGeneration(config)

    def loss(self, ids_BT: Tensor, rng: torch.Generator) -> Tensor:
        """Text infilling: the whole window from one that has a mask in place of each span."""
        L = self.common.span_length
        start_BN = draw_spans(ids_BT, self.common.spans, L, rng)
        input_BS = without_spans(ids_BT, start_BN, L, self._masks)
        return _cross_entropy(self._decoded(input_BS, self._after(self.words.begin, ids_BT)), ids_BT).mean()

    def continuation(self, ids_BT: Tensor, P: int) -> Tensor:
        """One mask stands for all that follows."""
        logits_BTV = self._decoded(
            F.pad(ids_BT[:, :P], (0, 1), value=self.words.mask), self._after(self.words.begin, ids_BT)
        )
        return self._nats(logits_BTV[:, P:], ids_BT[:, P:]).sum(1)

    def asked_to_write(self, prompt_BP: Tensor) -> dict[str, Tensor]:
        """A mask stands for what follows, and the decoder has written the prompt."""
        return {
            "input_ids": F.pad(prompt_BP, (0, 1), value=self.words.mask),
            "decoder_input_ids": F.pad(prompt_BP, (1, 0), value=self.words.begin),
        }

    def fill(self, ids_BT: Tensor, place_B: Tensor) -> Tensor:
        return self.fill_span(ids_BT, place_B, 1)[:, 0]

    def fill_span(self, ids_BT: Tensor, start_B: Tensor, L: int) -> Tensor:
        """The decoder has written what stands before the gap, and goes on."""
        input_BS = without_spans(ids_BT, start_B[:, None], L, self._masks)
        return _word_by_word(
            ids_BT, start_B, L, lambda ids: self._known(self._decoded(input_BS, self._after(self.words.begin, ids))), 0
        )

    @property
    def _masks(self) -> Tensor:
        return torch.full((self.common.spans,), self.words.mask)


class T5(EncoderDecoder):
    name, attention = "T5", "bidirectional encoder, causal decoder with cross-attention, relative positions"

    def _build(self) -> nn.Module:
        shape = self.shape
        config = T5Config(
            vocab_size=self.words.all,
            d_model=shape.width,
            d_kv=shape.width // shape.heads,
            d_ff=shape.hidden_of_two,
            num_layers=shape.layers // 2,
            num_decoder_layers=shape.layers // 2,
            num_heads=shape.heads,
            dropout_rate=shape.dropout,
            **_each(self.words.pad, "decoder_start_token_id"),
            **_no_ends(self.words),
        )
        return T5ForConditionalGeneration(config)

    def loss(self, ids_BT: Tensor, rng: torch.Generator) -> Tensor:
        """Span corruption: the spans alone, each after its sentinel."""
        L = self.common.span_length
        start_BN = draw_spans(ids_BT, self.common.spans, L, rng)
        target_BU = span_targets(ids_BT, start_BN, L, self.words)
        input_BS = without_spans(ids_BT, start_BN, L, self.words.sentinels)
        return _cross_entropy(self._decoded(input_BS, self._after(self.words.pad, target_BU)), target_BU).mean()

    def continuation(self, ids_BT: Tensor, P: int) -> Tensor:
        """The first sentinel stands for all that follows."""
        sentinel = int(self.words.sentinels[0])
        given_BU = self._after(self.words.pad, F.pad(ids_BT[:, P:], (1, 0), value=sentinel))
        logits_BUV = self._decoded(F.pad(ids_BT[:, :P], (0, 1), value=sentinel), given_BU)
        return self._nats(logits_BUV[:, 1:], ids_BT[:, P:]).sum(1)

    def asked_to_write(self, prompt_BP: Tensor) -> dict[str, Tensor]:
        """A sentinel stands for what follows, and the decoder has written it."""
        sentinel = int(self.words.sentinels[0])
        return {
            "input_ids": F.pad(prompt_BP, (0, 1), value=sentinel),
            "decoder_input_ids": torch.tensor([[self.words.pad, sentinel]]).expand(len(prompt_BP), -1),
        }

    def fill(self, ids_BT: Tensor, place_B: Tensor) -> Tensor:
        return self.fill_span(ids_BT, place_B, 1)[:, 0]

    def fill_span(self, ids_BT: Tensor, start_B: Tensor, L: int) -> Tensor:
        input_BS = without_spans(ids_BT, start_B[:, None], L, self.words.sentinels)
        so_far = torch.full((len(ids_BT), 1), int(self.words.sentinels[0]))
        for _ in range(L):
            given_BU = F.pad(so_far, (1, 0), value=self.words.pad)
            so_far = torch.cat([so_far, self._known(self._decoded(input_BS, given_BU)[:, -1:])], dim=1)
        return so_far[:, 1:]


FAMILIES: dict[str, type[Family]] = {family.name: family for family in (GPT2, BERT, BART, T5)}


def _cross_entropy(logits_BTV: Tensor, ids_BT: Tensor) -> Tensor:
    """nats_BT"""
    return F.cross_entropy(logits_BTV.transpose(1, 2), ids_BT, reduction="none")


def _word_by_word(ids_BT: Tensor, start_B: Tensor, L: int, predict: Any, shift: int) -> Tensor:
    """ids_BL: `predict(ids_BT)` gives a word for every place; the one for a gap's place stands `shift` before it.

    What stands in the gap and after it must not matter to it, so it may be anything.
    """
    ids_BT = ids_BT.clone()
    for step in range(L):
        place_B1 = (start_B + step)[:, None]
        ids_BT.scatter_(1, place_B1, predict(ids_BT).gather(1, place_B1 - shift))
    return spans_of(ids_BT, start_B[:, None], L)[:, 0]


def _each(value: Any, *names: str) -> dict[str, Any]:
    """Fields of a configuration that have one value."""
    return dict.fromkeys(names, value)


def _no_ends(words: Words) -> dict[str, Any]:
    """The ids that a configuration names, ours."""
    return {"bos_token_id": words.begin, "eos_token_id": words.end, "pad_token_id": words.pad}
