"""Section `adversarial`: which methods refine the expert model, and a section for each of them.

A method is one module of troupe/adversarial with a `run`; it reads its own section alone.
"""

from typing import Annotated, Literal, Self, get_args

from pydantic import Field, field_validator, model_validator

from troupe.params.sections import Count, Rate, Section, Share, TrainParams, Weight

MethodName = Literal["temperature", "likelihood", "tilt", "gan", "ddo", "distil", "moments"]


class TemperatureParams(Section):
    """The model at other temperatures, a control (adversarial/temperature.py)."""

    temperatures: Annotated[list[Annotated[float, Field(gt=0, le=10)]], Field(min_length=1)]


class LikelihoodParams(TrainParams):
    """The model trained on by likelihood, a control (adversarial/likelihood.py)."""


class TiltParams(Section):
    """Next-token probabilities reweighted with the help of an n-gram model (adversarial/tilt.py)."""

    rounds: Count
    order: Annotated[int, Field(ge=2, le=16)]
    texts: Annotated[int, Field(ge=2)]
    prompt_length: Count


class GameParams(Section):
    """What a generator that is trained on its own continuations of real prompts needs (adversarial/game.py)."""

    steps: Count
    batch_size: Annotated[int, Field(ge=2)]
    prompt_length: Count
    sequence_length: Count
    learning_rate: Rate
    grad_clip: Annotated[float, Field(gt=0)]
    max_bpb_rise: Weight
    min_distinct: Share
    eval_interval: Count
    checkpoint_interval: Count

    @model_validator(mode="after")
    def something_is_left_to_classify(self) -> Self:
        whole = self.prompt_length + self.sequence_length
        if self.sequence_length <= whole // 8:
            raise ValueError(
                f"sequence_length ({self.sequence_length}) must be more than an eighth of it and prompt_length "
                f"together ({whole}): the last eighth is cut off (reader.canonical)"
            )
        return self


class RefinementParams(GameParams):
    """What holds a generator near its start, and how it computes."""

    kl_cap: Annotated[float, Field(gt=0)]
    likelihood_every: Annotated[int, Field(ge=0)]
    threads: Annotated[int, Field(ge=1, le=256)]


class ReferenceParams(Section):
    """The small model through which a discriminator reads, beside the dense one."""

    n_layer: Count
    n_embd: Annotated[int, Field(ge=2, multiple_of=2)]
    steps: Count
    batch_size: Count
    learning_rate: Rate


class DiscriminatorParams(Section):
    """An LSTM discriminator, and its training before any generator is trained against it."""

    n_embd: Count
    n_hidden: Count
    learning_rate: Rate
    texts: Annotated[int, Field(ge=2)]
    batch_size: Count
    updates: Count
    rounds: Count
    more_rounds: Annotated[int, Field(ge=0)]
    min_auc: Share
    reference: ReferenceParams


class GanParams(RefinementParams):
    """SeqGAN: REINFORCE against an LSTM discriminator (adversarial/gan.py)."""

    objective: Literal["gan", "wgan", "wgan-gp"]
    n_critic: Count
    warmup_critic: Annotated[int, Field(ge=0)]
    clip: Annotated[float, Field(gt=0)]
    gradient_penalty: Weight
    per_token: bool
    baseline: Literal["none", "batch mean", "leave one out"]
    kl_weight: Weight
    discriminator: DiscriminatorParams


class DdoParams(RefinementParams):
    """Direct discriminative optimization: the generator is its own discriminator (adversarial/ddo.py)."""


class DistilParams(RefinementParams):
    """Likelihood of the candidates that a discriminator draws (adversarial/distil.py)."""

    candidates: Annotated[int, Field(ge=2, le=1024)]
    n_critic: Count
    discriminator: DiscriminatorParams


class MomentsParams(RefinementParams):
    """REINFORCE towards the counts of n-grams that real text has (adversarial/moments.py)."""

    batch_size: Annotated[int, Field(ge=3)]
    orders: Annotated[list[Annotated[int, Field(ge=1, le=16)]], Field(min_length=1)]
    buckets: Count
    kl_weight: Weight


MethodParams = TemperatureParams | LikelihoodParams | TiltParams | RefinementParams


class AdversarialParams(Section):
    methods: list[MethodName]
    temperature: TemperatureParams
    likelihood: LikelihoodParams
    tilt: TiltParams
    gan: GanParams
    ddo: DdoParams
    distil: DistilParams
    moments: MomentsParams

    @field_validator("methods")
    @classmethod
    def each_once(cls, methods: list[MethodName]) -> list[MethodName]:
        if len(set(methods)) < len(methods):
            raise ValueError(f"each method once, got {methods}")
        return methods

    def active(self) -> dict[str, MethodParams]:
        """The sections of the methods that are run, by name, from the simplest method on: the order in which their
        candidates are compared."""
        return {name: getattr(self, name) for name in get_args(MethodName) if name in self.methods}
