"""All sections of params.yaml together, those that are short, and what they ask of each other."""

from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator

from troupe.params.adversarial import AdversarialParams, TiltParams
from troupe.params.section import Count, Section, Weight
from troupe.params.training import MoeParams, PretrainParams, grouped_fault


def _threads(value: object) -> object:
    if value == "auto" or (type(value) is int and 1 <= value <= 256):
        return value
    raise ValueError(f"auto or a whole number from 1 to 256, got {value!r}")  # one line, where a union would take two


# Who starts the processes; no result depends on it. dvc.yaml names the other fields one by one.
INCIDENTAL: Mapping[str, frozenset[str]] = {"run": frozenset({"launcher"})}


class RunParams(Section):
    seed: Annotated[int, Field(ge=0, lt=2**32)]
    threads: Annotated[int | Literal["auto"], BeforeValidator(_threads)]
    processes: Annotated[int, Field(ge=1, le=4096)]
    nodes: Annotated[int, Field(ge=1, le=1024)]
    launcher: Literal["local", "torchrun", "docker", "kubernetes"]
    device: Literal["auto", "cpu", "cuda"]
    precision: Literal["auto", "float32", "bfloat16"]
    compile: Literal["auto", "always", "never"]

    @property
    def processes_per_node(self) -> int:
        return self.processes // self.nodes

    @model_validator(mode="after")
    def nodes_can_be_reached(self) -> Self:
        if self.processes % self.nodes:
            raise ValueError(f"processes ({self.processes}) must be divisible by nodes ({self.nodes})")
        if self.launcher == "local" and self.nodes > 1:
            raise ValueError(f"launcher: local starts processes on this machine only, not on {self.nodes} nodes")
        if self.launcher in ("docker", "kubernetes") and self.device == "auto":
            raise ValueError(f"launcher: {self.launcher} cannot look what device there is; set device to cpu or cuda")
        return self


class DataParams(Section):
    source: Annotated[str, Field(min_length=1)]
    block_bytes: Annotated[int, Field(ge=64)]


class TokensParams(Section):
    kind: Literal["bytes", "chars", "bpe", "gpt2"]
    vocab_size: Annotated[int, Field(ge=257, le=65_536)]


class ModelParams(Section):
    block_size: Annotated[int, Field(ge=2)]
    n_layer: Count
    n_head: Count
    n_embd: Count
    dropout: Annotated[float, Field(ge=0, lt=1)]
    positions: Literal["learned", "rotary"]
    norm: Literal["layer", "rms"]
    activation: Literal["gelu", "relu2", "swiglu"]
    qk_norm: bool
    conv: Annotated[int, Field(ge=0, le=16)]
    bias: bool

    @model_validator(mode="after")
    def heads_divide_width(self) -> Self:
        if self.n_embd % self.n_head:
            raise ValueError(f"n_embd ({self.n_embd}) must be divisible by n_head ({self.n_head})")
        width = self.n_embd // self.n_head
        if self.positions == "rotary" and width % 2:
            raise ValueError(f"positions: rotary turns pairs of features; n_embd / n_head ({width}) must be even")
        return self


class JudgingParams(Section):
    seeds: Annotated[int, Field(ge=1, le=100)]
    window: Annotated[int, Field(ge=16)]
    texts: Annotated[int, Field(ge=10)]
    train_bytes: Count
    held_out_bytes: Count
    bits_margin: Weight


class EvaluateParams(Section):
    stride: Count
    ngram_max_order: Annotated[int, Field(ge=1, le=16)]
    sample_tokens: Count
    prompt: Annotated[str, Field(min_length=1)]
    temperatures: list[Annotated[float, Field(gt=0, le=10)]]
    temperature: Annotated[float, Field(gt=0)]
    top_k: Count
    top_p: Annotated[float, Field(gt=0, le=1)]

    @field_validator("temperatures")
    @classmethod
    def each_another_than_1(cls, temperatures: list[float]) -> list[float]:
        if len({1.0, *temperatures}) <= len(temperatures):
            raise ValueError(f"each must be another than 1 (always measured) and than the others, got {temperatures}")
        return temperatures


class PromoteParams(Section):
    bpb_margin: Weight
    confidence: Annotated[float, Field(gt=0.5, lt=1)]


class Params(Section):
    run: RunParams
    data: DataParams
    tokens: TokensParams
    model: ModelParams
    pretrain: PretrainParams
    moe: MoeParams
    judging: JudgingParams
    adversarial: AdversarialParams
    evaluate: EvaluateParams
    promote: PromoteParams

    @model_validator(mode="after")
    def lengths_fit_the_context(self) -> Self:
        for name, method in self.adversarial.active().items():
            if isinstance(method, TiltParams):
                lengths, wanted, most = "prompt_length", method.prompt_length, self.model.block_size - 1
            else:
                lengths, most = "prompt_length + sequence_length", self.model.block_size
                wanted = method.prompt_length + method.sequence_length
            if wanted > most:
                raise ValueError(
                    f"adversarial.{name}: {lengths} ({wanted}) must not exceed {most} where model.block_size is "
                    f"{self.model.block_size}"
                )
        if self.evaluate.stride > self.model.block_size:
            raise ValueError(
                f"evaluate.stride ({self.evaluate.stride}) must not exceed model.block_size ({self.model.block_size})"
            )
        return self

    @model_validator(mode="after")
    def heads_of_experts_fit(self) -> Self:
        moe = self.moe
        if moe.conversion == "exact" and (moe.n_head or moe.head_width):
            raise ValueError(
                "moe.conversion: exact keeps the dense model's heads; set moe.n_head and moe.head_width to null"
            )
        if self.model.positions == "rotary" and moe.head_width and moe.head_width % 2:
            raise ValueError(
                f"model.positions: rotary turns pairs of features; moe.head_width ({moe.head_width}) must be even"
            )
        return self

    @model_validator(mode="after")
    def grouped_experts_can_be_computed(self) -> Self:
        """As far as it shows here: what precision `auto` comes to on this machine the stage knows, and asks again."""
        if self.moe.compute == "grouped":
            head_width = self.moe.head_width or self.model.n_embd // self.model.n_head
            compiled = self.run.precision == "float32" and self.run.compile == "always"
            if fault := grouped_fault(self.model.n_embd, head_width, self.run.precision, compiled):
                raise ValueError(fault)
        return self

    @model_validator(mode="after")
    def processes_share_a_batch(self) -> Self:
        sizes = {"pretrain.batch_size": self.pretrain.batch_size, "moe.batch_size": self.moe.batch_size}
        if self.moe.conversion == "distilled":
            sizes["moe.distil_batch_size"] = self.moe.distil_batch_size
        for name, size in sizes.items():
            if size % self.run.processes:
                raise ValueError(
                    f"{name} ({size}) must be divisible by run.processes "
                    f"({self.run.processes}): each takes an equal share of every batch"
                )
        return self
