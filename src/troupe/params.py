"""The schema of params.yaml: types, ranges and units. It holds no default: every value has its one home in the file."""

from collections.abc import Sequence
from io import StringIO
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from ruamel.yaml import YAML

from troupe.errors import ParamsError
from troupe.overlay import Layers, load_layers

Count = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(gt=0, le=10)]
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]

STEPS_WORTH_COMPILING = 300


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class RunParams(Section):
    seed: Annotated[int, Field(ge=0, lt=2**32)]
    threads: Annotated[int, Field(ge=1, le=256)]
    processes: Annotated[int, Field(ge=1, le=256)]
    device: Literal["auto", "cpu", "cuda"]
    precision: Literal["auto", "float32", "bfloat16"]
    compile: Literal["auto", "always", "never"]

    def asks_to_compile(self, steps: int) -> bool:
        """Whether a training of `steps` is to be compiled, where that is possible."""
        return self.compile == "always" or (self.compile == "auto" and steps >= STEPS_WORTH_COMPILING)


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


class GameParams(Section):
    """What two players over text need (adversarial/game.py)."""

    objective: Literal["gan", "wgan", "wgan-gp"]
    steps: Count
    batch_size: Annotated[int, Field(ge=2)]
    sequence_length: Count
    prompt_length: Count
    learning_rate: Rate
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

    @model_validator(mode="after")
    def something_is_left_to_tell(self) -> Self:
        whole = self.prompt_length + self.sequence_length
        if self.sequence_length <= whole // 8:
            raise ValueError(
                f"sequence_length ({self.sequence_length}) must be more than an eighth of it and prompt_length "
                f"together ({whole}): the last eighth is cut off (reader.canonical)"
            )
        return self


class RulesParams(Section):
    """What holds a generator near its start, and how it learns from rewards (adversarial.reinforce.Reinforce)."""

    kl_cap: Annotated[float, Field(gt=0)]
    likelihood_every: Annotated[int, Field(ge=0)]
    freeze_routers: bool
    per_token: bool
    baseline: Literal["none", "batch mean", "leave one out"]
    kl_weight: Weight
    entropy_weight: Weight
    replay: Annotated[int, Field(ge=0)]


class AdversarialParams(GameParams, RulesParams):
    learn: Literal["none", "reinforce", "distil", "ddo"]
    candidates: Annotated[int, Field(ge=1, le=1024)]
    span: Count
    among: Count
    threads: Annotated[int, Field(ge=1, le=256)]
    reference_layers: Count
    reference_embd: Annotated[int, Field(ge=2, multiple_of=2)]
    reference_steps: Count
    reference_batch_size: Count
    reference_learning_rate: Rate
    min_auc: Share
    critic_texts: Annotated[int, Field(ge=2)]
    critic_batch_size: Count
    critic_updates: Count
    critic_looks: Count
    critic_rounds: Annotated[int, Field(ge=0)]
    judge_texts: Annotated[int, Field(ge=10)]
    judge_seeds: Annotated[int, Field(ge=1, le=100)]

    @model_validator(mode="after")
    def spans_are_read_whole(self) -> Self:
        if self.span > self.sequence_length:
            raise ValueError(
                f"span ({self.span}) must not exceed sequence_length ({self.sequence_length}), "
                "on which the discriminator learns"
            )
        return self

    @model_validator(mode="after")
    def scores_are_odds_where_odds_are_needed(self) -> Self:
        needs = "distil needs" if self.learn == "distil" else f"candidates ({self.candidates}) need"
        if self.objective != "gan" and (self.learn == "distil" or self.candidates > 1):
            other = "learn=reinforce" if self.learn == "distil" else "candidates=1"
            raise ValueError(
                f"{needs} scores that are odds, and those of {self.objective} are none; "
                f'SET="adversarial.objective=gan" or "adversarial.{other}"'
            )
        return self

    def of_reference(self) -> TrainParams:
        """What trains the discriminator's small reference: Muon, a warm-up of a tenth, the second half down to zero."""
        return TrainParams(
            steps=self.reference_steps,
            batch_size=self.reference_batch_size,
            optimizer="muon",
            learning_rate=self.reference_learning_rate,
            adamw_learning_rate=self.reference_learning_rate / 10,
            warmup_steps=self.reference_steps // 10,
            decay_fraction=0.5,
            weight_decay=0.0,
            grad_clip=1.0,
            eval_interval=max(1, self.reference_steps // 4),
            checkpoint_interval=self.reference_steps,
        )


class EvaluateParams(Section):
    stride: Count
    train_bytes: Count
    held_out_bytes: Count
    ngram_max_order: Annotated[int, Field(ge=1, le=16)]
    sample_tokens: Count
    prompt: Annotated[str, Field(min_length=1)]
    judge_seeds: Annotated[int, Field(ge=1, le=100)]
    judge_window: Annotated[int, Field(ge=16)]
    judge_texts: Annotated[int, Field(ge=10)]
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
        """As far as it shows here: what `auto` comes to on this machine the stage knows, and asks again."""
        if self.moe.compute == "grouped":
            head_width = self.moe.head_width or self.model.n_embd // self.model.n_head
            compiled = self.run.precision == "float32" and self.run.asks_to_compile(self.moe.steps)
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


def load_params(path: Path, overrides: Sequence[str] = (), profile: str = "") -> Params:
    """Read and check a parameter file, with a profile of that name and overrides such as "pretrain.steps=500" over it.

    Raises ParamsError with one line per fault: file, line, field, what is wrong.
    """
    layers = load_layers(path, profile, overrides)
    try:
        return Params.model_validate(layers.values)
    except ValidationError as error:
        raise ParamsError("\n".join(_fault(layers, e) for e in error.errors())) from None


def dump_params(params: Params, path: Path) -> None:
    """Write parameters as YAML, sections and keys in the order of the schema: equal parameters give equal bytes."""
    text = StringIO()
    yaml = YAML()
    yaml.dump(params.model_dump(), text)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text.getvalue(), encoding="utf-8")


def _fault(layers: Layers, error: Any) -> str:
    field = ".".join(str(part) for part in error["loc"])
    message = {
        "extra_forbidden": "unknown parameter; remove it or correct its name",
        "missing": "missing; add it",
    }.get(error["type"], error["msg"].removeprefix("Value error, "))
    if error["type"] not in ("extra_forbidden", "missing", "value_error"):
        message += f", got {error['input']!r}"
    return ": ".join(filter(None, [layers.place(error["loc"]), field, message]))
