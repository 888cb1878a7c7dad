"""The schema of params.yaml (types, ranges and units), and the file read and written.

It holds no default: every value has its one home in the file.
"""

from collections.abc import Sequence
from io import StringIO
from pathlib import Path
from typing import Any, Self, TypeVar

from pydantic import BaseModel, ValidationError, model_validator
from ruamel.yaml import YAML

from troupe.errors import ParamsError
from troupe.overlay import ParameterLayers, load_layers
from troupe.params.adversarial import (
    AdversarialParams,
    DdoParams,
    DiscriminatorParams,
    DistilParams,
    GameParams,
    GanParams,
    LikelihoodParams,
    MomentsParams,
    ReferenceParams,
    RefinementParams,
    TemperatureParams,
    TiltParams,
)
from troupe.params.sections import (
    INCIDENTAL,
    Count,
    DataParams,
    EvaluateParams,
    JudgingParams,
    ModelParams,
    MoeParams,
    PretrainParams,
    PromoteParams,
    Rate,
    RunParams,
    Section,
    Share,
    TokensParams,
    TrainParams,
    Weight,
    grouped_fault,
)

__all__ = [
    "INCIDENTAL", "AdversarialParams", "Count", "DataParams", "DdoParams", "DiscriminatorParams", "DistilParams",
    "EvaluateParams", "GameParams", "GanParams", "JudgingParams", "LikelihoodParams", "ModelParams", "MoeParams",
    "MomentsParams", "Params", "PretrainParams", "PromoteParams", "Rate", "ReferenceParams", "RefinementParams",
    "RunParams", "Section", "Share", "TemperatureParams", "TiltParams", "TokensParams", "TrainParams", "Weight",
    "checked", "dump_params", "grouped_fault", "load_params",
]  # fmt: skip

Schema = TypeVar("Schema", bound=BaseModel)


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
            lengths, wanted, most = "", 0, self.model.block_size
            if isinstance(method, TiltParams):
                lengths, wanted, most = "prompt_length", method.prompt_length, most - 1
            elif isinstance(method, RefinementParams):
                lengths, wanted = "prompt_length + sequence_length", method.prompt_length + method.sequence_length
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
    def pretrained_tokens_come_with_weights(self) -> Self:
        if self.tokens.kind == "pretrained" and self.pretrain.init_from == "scratch":
            raise ValueError(
                "tokens.kind: pretrained is the tokenizer of the weights that pretrain.init_from names, and that is "
                "scratch; name weights, or set tokens.kind to bpe"
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


def load_params(path: Path, overrides: Sequence[str] = (), profile: str = "") -> Params:
    """Read and check a parameter file, with a profile of that name and overrides such as "pretrain.steps=500" over it.

    The value of an override is the very text after "=" where the schema wants a string, and YAML elsewhere.
    Raises ParamsError with one line per fault: file, line, field, what is wrong.
    """
    return checked(load_layers(path, profile, overrides, Params), Params)


def checked(layers: ParameterLayers, schema: type[Schema]) -> Schema:
    """What the layers hold, as a schema has it. Raises ParamsError with one line per fault, as `load_params`."""
    try:
        return schema.model_validate(layers.values)
    except ValidationError as error:
        raise ParamsError("\n".join(_fault(layers, e) for e in error.errors())) from None


def dump_params(params: Params, path: Path) -> None:
    """Write parameters as YAML, sections and keys in the order of the schema: equal parameters give equal bytes."""
    text = StringIO()
    yaml = YAML()
    yaml.allow_unicode, yaml.width = False, 2**31  # ruamel loses characters such as U+0085, and some where it folds
    yaml.dump(params.model_dump(), text)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text.getvalue(), encoding="utf-8")


def _fault(layers: ParameterLayers, error: Any) -> str:
    field = ".".join(str(part) for part in error["loc"])
    message = {
        "extra_forbidden": "unknown parameter; remove it or correct its name",
        "missing": "missing; add it",
        "model_type": f"a section of parameters, got {error['input']!r}",
    }.get(error["type"], error["msg"].removeprefix("Value error, "))
    if error["type"] not in ("extra_forbidden", "missing", "model_type", "value_error"):
        message += f", got {error['input']!r}"
    if error["type"] == "string_type" and error["input"] is not None:
        message += "; put the text in quotes"
    return ": ".join(filter(None, [layers.place(error["loc"]), field, message]))
