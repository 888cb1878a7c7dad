"""What every section of params.yaml is, and all sections but `adversarial`."""

from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

# Who starts the processes; no result depends on it. dvc.yaml names the other fields one by one.
INCIDENTAL: Mapping[str, frozenset[str]] = {"run": frozenset({"launcher"})}
Count = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(gt=0, le=10)]
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


def _threads(value: object) -> object:
    if value == "auto" or (type(value) is int and 1 <= value <= 256):
        return value
    raise ValueError(f"auto or a whole number from 1 to 256, got {value!r}")  # one line, where a union would take two


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
    kind: Literal["bytes", "chars", "bpe", "gpt2", "pretrained"]
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


class TrainParams(Section):
    """What the training loop needs; `pretrain` and `moe` share it."""

    steps: Count
    batch_size: Count
    optimizer: Literal["muon", "adamw"]
    learning_rate: Rate
    adamw_learning_rate: Rate
    warmup_steps: Annotated[int, Field(ge=0)]
    decay_fraction: Share
    weight_decay: Weight
    grad_clip: Annotated[float, Field(gt=0)]
    eval_interval: Count
    checkpoint_interval: Count


class PretrainParams(TrainParams):
    init_from: Annotated[str, Field(min_length=1)]


class MoeParams(TrainParams):
    conversion: Literal["exact", "distilled", "scratch"]
    n_head: Count | None
    head_width: Count | None
    n_expert: Annotated[int, Field(ge=1, le=256)]
    top_k: Count
    router: Literal["sigmoid", "softmax"]
    expert_dropout: Annotated[float, Field(ge=0, lt=1)]
    balance_weight: Weight
    compute: Literal["auto", "dense", "loop", "grouped"]
    distil_steps: Count
    distil_batch_size: Count
    distil_learning_rate: Rate
    distil_adamw_learning_rate: Rate
    control: bool

    @model_validator(mode="after")
    def enough_experts(self) -> Self:
        if self.top_k > self.n_expert:
            raise ValueError(f"top_k ({self.top_k}) must not exceed n_expert ({self.n_expert})")
        return self

    def distilling(self) -> TrainParams:
        """What trains attention layers to do as the dense ones: Muon, a warm-up of a twentieth, then down to zero."""
        return self.model_copy(
            update={
                "steps": self.distil_steps,
                "batch_size": self.distil_batch_size,
                "optimizer": "muon",
                "learning_rate": self.distil_learning_rate,
                "adamw_learning_rate": self.distil_adamw_learning_rate,
                "warmup_steps": self.distil_steps // 20,
                "decay_fraction": 1.0,
                "weight_decay": 0.0,
            }
        )


def grouped_fault(n_embd: int, head_width: int, precision: str, compiled: bool) -> str | None:
    """What keeps torch's grouped matrix product from computing experts of these widths; None if nothing does.

    Its rows are whole 16 bytes, 8 numbers of bfloat16 or 4 of float32, and torch.compile takes it in bfloat16 only.
    """
    if compiled and precision != "bfloat16":
        return "moe.compute: torch cannot compile grouped in float32; set moe.compute=auto or run.compile=never"
    multiple = 8 if precision == "bfloat16" else 4
    if n_embd % multiple or head_width % multiple:
        return (
            f"moe.compute: grouped takes widths that are multiples of {multiple}, not model.n_embd {n_embd} with "
            f"moe.head_width {head_width} (null: n_embd / n_head); set moe.compute=auto or change them"
        )
    return None


class JudgingParams(Section):
    seeds: Annotated[int, Field(ge=1, le=100)]
    window: Annotated[int, Field(ge=16)]
    texts: Annotated[int, Field(ge=10)]
    train_bytes: Count
    held_out_bytes: Count
    transformer_steps: Count
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
