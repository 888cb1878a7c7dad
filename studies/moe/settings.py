"""The schema of a configuration of the study of attention experts, as moe.yaml explains it."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from troupe.conversion.attention import Conversion
from troupe.models.config import GPTConfig
from troupe.models.switchhead import SwitchHeadConfig
from troupe.params import Count, DataParams, ModelParams, Section, Share, TokensParams, TrainParams, Weight


class Experts(Section):
    n_expert: Count
    top_k: Count
    router: Literal["sigmoid", "softmax"]
    balance_weight: Weight = 0.0
    expert_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0


class Arm(Section):
    """One model: where its weights are from, and its attention where that differs from the dense model's.

    `start`: pretrained (the dense model after the first phase) or random (it is trained in both phases).
    """

    start: Literal["pretrained", "random"]
    conversion: Conversion | None = None
    n_head: Count | None = None
    head_width: Count | None = None
    experts: Experts | None = None

    @model_validator(mode="after")
    def says_how_experts_come_in(self) -> Self:
        if (self.conversion is not None) != (self.experts is not None and self.start == "pretrained"):
            raise ValueError("conversion belongs to an arm with start: pretrained and experts, and to no other")
        if self.start == "pretrained" and self.experts is None and (self.n_head or self.head_width):
            raise ValueError("n_head and head_width: a pretrained dense model has its own")
        if self.conversion == "exact" and (self.n_head or self.head_width):
            raise ValueError("n_head and head_width: an exact conversion keeps those of the dense model")
        return self

    def switchhead(self, dense: GPTConfig) -> SwitchHeadConfig:
        """Of an arm with experts: as many heads as the dense model, and as wide, where it says nothing else."""
        if self.experts is None:
            raise ValueError("an arm without experts")
        return SwitchHeadConfig(
            n_head=self.n_head or dense.n_head,
            head_width=self.head_width or dense.attention_width // dense.n_head,
            **self.experts.model_dump(exclude={"balance_weight"}),
        )


class Hardware(Section):
    """Nothing is left to a probe: what differs between arms must be the arms."""

    device: Literal["auto", "cpu", "cuda"]
    precision: Literal["float32", "bfloat16"]
    compile: Literal["always", "never"]


class Looks(Section):
    """When the loss of the first `tokens` of validation text is looked at, and on how many the routers are watched."""

    tokens: Count
    every: Count
    after_the_switch: list[Count]
    watched: Count


class Bars(Section):
    """What the `judged` arm is held to; `dense`, `wide` and `narrow` name the arms that it is held against."""

    judged: str
    dense: str
    wide: str
    narrow: str
    jump: float
    regained: Share
    gap: float
    macs: Share
    memory: Share


class Common(Section):
    """What all arms have in common."""

    hardware: Hardware
    model: ModelParams
    looks: Looks


class Settings(Common):
    """A whole configuration: `pretrain` and `continued` are the two phases of training, `distil` the
    conversion between them of arms with conversion: distilled."""

    seeds: Count
    workers: Count | None
    data: DataParams
    tokens: TokensParams
    pretrain: TrainParams
    distil: TrainParams
    continued: TrainParams
    arms: dict[str, Arm]
    remedies: dict[str, Arm]
    bars: Bars

    @model_validator(mode="after")
    def bars_name_arms(self) -> Self:
        for role in ("judged", "dense", "wide", "narrow"):
            if (name := getattr(self.bars, role)) not in self.arms:
                raise ValueError(f"bars.{role}: there is no arm {name!r}")
        return self

    @model_validator(mode="after")
    def names_are_different(self) -> Self:
        if both := sorted(self.arms.keys() & self.remedies.keys()):
            raise ValueError(f"arms and remedies: {both[0]!r} is in both")
        return self
