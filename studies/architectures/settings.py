"""The schema of a configuration of the study of architectures, as architectures.yaml explains it."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from troupe.params import Count, DataParams, Rate, Section, TokensParams, Weight


class Shape(Section):
    context: Annotated[int, Field(ge=8)]
    width: Count
    heads: Count
    layers: Annotated[int, Field(ge=2, multiple_of=2)]
    hidden: Count
    hidden_of_two: Count
    dropout: Annotated[float, Field(ge=0, lt=1)]


class Training(Section):
    steps: Count
    batch_size: Count
    learning_rate: Rate
    weight_decay: Weight


class Common(Section):
    """What every job needs."""

    shape: Shape
    training: Training
    spans: Annotated[int, Field(ge=1, le=16)]
    span_length: Count
    held_out: Count
    ranked: Count
    lengths: Annotated[list[Count], Field(min_length=2)]

    @model_validator(mode="after")
    def it_fits_the_context(self) -> Self:
        context = self.shape.context
        if self.spans * (self.span_length + 1) > context:
            raise ValueError(f"spans: {self.spans} of {self.span_length} tokens do not fit a context of {context}")
        if self.lengths[0] + self.lengths[-1] > context:
            raise ValueError(f"lengths: a prompt of {self.lengths[0]} and {self.lengths[-1]} more exceed {context}")
        return self


class Settings(Common):
    seeds: Count
    data: DataParams
    tokens: TokensParams
