"""The schema of a configuration of the oracle study, as oracle.yaml explains it."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from studies.core.configuration import Looks
from troupe.adversarial.reinforce import Reinforce
from troupe.params import Count, Rate, Section, Weight

Positive = Annotated[float, Field(gt=0)]
LIKELIHOOD = "likelihood"  # the arm that all others start from


class Oracle(Section):
    seed: Annotated[int, Field(ge=0)]
    vocab_size: Annotated[int, Field(ge=2)]
    width: Count
    length: Count


class Data(Section):
    train: Count
    validation: Count
    test: Count


class Likelihood(Section):
    learning_rate: Rate
    weight_decay: Weight
    batch_size: Count
    epochs: Count


class Measured(Section):
    temperatures: Annotated[list[Positive], Field(min_length=2)]
    sequences: Count

    @model_validator(mode="after")
    def temperature_one_is_there(self) -> Self:
        if 1.0 not in self.temperatures or sorted(set(self.temperatures)) != self.temperatures:
            raise ValueError("temperatures must rise, with 1.0 among them")
        return self


class Discriminator(Section):
    n_embd: Count
    n_hidden: Count
    learning_rate: Rate
    pretraining: Count


class Arm(Looks):
    reward: Literal["objective", "probability"]
    baseline: Literal["none", "batch mean", "leave one out"]
    normalise: bool
    learning_rate: Rate
    batch_size: Count
    n_critic: Count

    def rules(self) -> Reinforce:
        return Reinforce(reward=self.reward, per_token=True, baseline=self.baseline, normalise=self.normalise)


class Task(Section):
    """All that the figures of likelihood training depend on, beside the seed."""

    oracle: Oracle
    data: Data
    likelihood: Likelihood
    measured: Measured


class GameTask(Task):
    """Of an arm that goes on from there."""

    discriminator: Discriminator
    arm: Arm


class PublishedNumber(Section):
    method: str
    nll_oracle: Positive
    source: str


class PublishedCurve(Section):
    """Points are [temperature, NLL_oracle, NLL_test]."""

    points: list[Annotated[list[Positive], Field(min_length=3, max_length=3)]]


class Published(Section):
    floor: Positive
    curves_from: str
    curves: dict[str, PublishedCurve]
    numbers: list[PublishedNumber]


class Settings(Task):
    seeds: Count
    discriminator: Discriminator
    arms: dict[str, Arm]
    levels: Annotated[list[Weight], Field(min_length=1)]
    published: Published

    @model_validator(mode="after")
    def names_differ(self) -> Self:
        if LIKELIHOOD in self.arms:
            raise ValueError(f"arms: {LIKELIHOOD!r} is the arm that the others start from; choose another name")
        return self

    def task(self, name: str) -> Task:
        same = {field: getattr(self, field) for field in Task.model_fields}
        if name == LIKELIHOOD:
            return Task(**same)
        return GameTask(**same, discriminator=self.discriminator, arm=self.arms[name])
