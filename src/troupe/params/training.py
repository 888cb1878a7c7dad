"""The sections of the stages that train by likelihood: pretrain and moe."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from troupe.params.section import Count, Rate, Section, Share, Weight


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
