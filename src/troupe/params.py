"""The schema of params.yaml: types, ranges and units. It holds no default: every value has its one home in the file."""

import shlex
from collections.abc import Sequence
from io import StringIO
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap
from ruamel.yaml.error import MarkedYAMLError

from troupe.errors import ParamsError

Count = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(gt=0, le=10)]
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class RunParams(Section):
    seed: Annotated[int, Field(ge=0, lt=2**32)]
    threads: Annotated[int, Field(ge=1, le=256)]
    device: Literal["auto", "cpu", "cuda"]
    precision: Literal["auto", "float32", "bfloat16"]


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

    @model_validator(mode="after")
    def heads_divide_width(self) -> Self:
        if self.n_embd % self.n_head:
            raise ValueError(f"n_embd ({self.n_embd}) must be divisible by n_head ({self.n_head})")
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
    pass


class MoeParams(TrainParams):
    n_expert: Annotated[int, Field(ge=1, le=256)]
    top_k: Count
    router: Literal["sigmoid", "softmax"]
    control: bool

    @model_validator(mode="after")
    def enough_experts(self) -> Self:
        if self.top_k > self.n_expert:
            raise ValueError(f"top_k ({self.top_k}) must not exceed n_expert ({self.n_expert})")
        return self


class AdversarialParams(Section):
    objective: Literal["gan", "wgan", "wgan-gp"]
    threads: Annotated[int, Field(ge=1, le=256)]
    steps: Count
    batch_size: Annotated[int, Field(ge=2)]
    sequence_length: Count
    prompt_length: Count
    learning_rate: Rate
    kl_weight: Weight
    n_critic: Count
    warmup_critic: Annotated[int, Field(ge=0)]
    critic_learning_rate: Rate
    critic_embd: Count
    critic_hidden: Count
    clip: Annotated[float, Field(gt=0)]
    gradient_penalty: Weight
    grad_clip: Annotated[float, Field(gt=0)]
    max_bpb_rise: Weight
    min_distinct: Share
    eval_interval: Count
    checkpoint_interval: Count


class EvaluateParams(Section):
    stride: Count
    ngram_max_order: Annotated[int, Field(ge=1, le=16)]
    sample_tokens: Count
    prompt: Annotated[str, Field(min_length=1)]
    judge_seeds: Annotated[int, Field(ge=1, le=100)]
    judge_window: Annotated[int, Field(ge=16)]
    judge_texts: Annotated[int, Field(ge=10)]
    temperature: Annotated[float, Field(gt=0)]
    top_k: Count
    top_p: Annotated[float, Field(gt=0, le=1)]


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
    adversarial: AdversarialParams
    evaluate: EvaluateParams
    promote: PromoteParams

    @model_validator(mode="after")
    def lengths_fit_the_context(self) -> Self:
        wanted = self.adversarial.prompt_length + self.adversarial.sequence_length
        if wanted > self.model.block_size:
            raise ValueError(
                f"adversarial.prompt_length + adversarial.sequence_length ({wanted}) must not exceed "
                f"model.block_size ({self.model.block_size})"
            )
        if self.evaluate.stride > self.model.block_size:
            raise ValueError(
                f"evaluate.stride ({self.evaluate.stride}) must not exceed model.block_size ({self.model.block_size})"
            )
        return self


def load_params(path: Path, overrides: Sequence[str] = ()) -> Params:
    """Read and check a parameter file, with overrides such as "pretrain.steps=500" laid over it.

    Raises ParamsError with one line per fault: file, line, field, what is wrong.
    """
    tree = _read(path)
    overridden = {_apply(tree, override) for override in overrides}
    try:
        return Params.model_validate(_plain(tree))
    except ValidationError as error:
        raise ParamsError("\n".join(_fault(path, tree, overridden, e) for e in error.errors())) from None


def split_overrides(text: str) -> list[str]:
    """The overrides in a line such as "pretrain.steps=500 evaluate.prompt='Once upon'", split as a shell would."""
    try:
        return shlex.split(text)
    except ValueError as error:
        raise ParamsError(f"override {text!r}: {str(error).lower()}") from None


def dump_params(params: Params, path: Path) -> None:
    """Write parameters as YAML, sections and keys in the order of the schema: equal parameters give equal bytes."""
    text = StringIO()
    yaml = YAML()
    yaml.dump(params.model_dump(), text)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text.getvalue(), encoding="utf-8")


def _read(path: Path) -> CommentedMap:
    try:
        tree = YAML().load(path.read_text(encoding="utf-8"))  # YAML 1.2: unlike PyYAML's 1.1, `3e-4` is a number
    except FileNotFoundError:
        raise ParamsError(
            f"{path}: no such file; run from the folder that holds it, or name it with --params"
        ) from None
    except UnicodeDecodeError as error:
        raise ParamsError(f"{path}: not UTF-8 at byte {error.start}") from None
    except MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ParamsError(f"{path}:{line}: not YAML: {error.problem}") from None
    if not isinstance(tree, CommentedMap):
        raise ParamsError(f"{path}: expected sections such as `run:` and `model:`")
    return tree


def _apply(tree: CommentedMap, override: str) -> str:
    name, equals, text = override.partition("=")
    section, dot, key = name.strip().partition(".")
    if not (equals and dot and section and key):
        raise ParamsError(f"override {override!r}: write section.key=value, e.g. pretrain.steps=500")
    if not isinstance(tree.get(section), CommentedMap):
        raise ParamsError(f"override {override!r}: no section {section!r}; there are {', '.join(tree)}")
    try:
        tree[section][key] = YAML(typ="safe").load(text)
    except MarkedYAMLError as error:
        raise ParamsError(f"override {override!r}: not a YAML value: {error.problem}") from None
    return f"{section}.{key}"


def _plain(value: Any) -> Any:
    """ruamel's containers and scalars as plain Python ones, which strict validation wants."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, bool) or value is None:
        return value
    for kind in (int, float, str):
        if isinstance(value, kind):
            return kind(value)
    return value


def _fault(path: Path, tree: CommentedMap, overridden: set[str], error: Any) -> str:
    field = ".".join(str(part) for part in error["loc"])
    message = {
        "extra_forbidden": "unknown parameter; remove it or correct its name",
        "missing": "missing; add it",
    }.get(error["type"], error["msg"].removeprefix("Value error, "))
    if error["type"] not in ("extra_forbidden", "missing", "value_error"):
        message += f", got {error['input']!r}"
    place = "override" if field in overridden else f"{path}{_line(tree, error['loc'])}"
    return f"{place}: {field}: {message}" if field else f"{place}: {message}"


def _line(tree: CommentedMap, location: tuple[str | int, ...]) -> str:
    """ ":17" for the deepest part of the location that stands in the file; "" for none."""
    line, node = "", tree
    for part in location:
        if not isinstance(node, CommentedMap) or part not in node:
            break
        if part in node.lc.data:
            line = f":{node.lc.data[part][0] + 1}"
        node = node[part]
    return line
