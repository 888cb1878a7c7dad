"""The schema of a configuration of the ladder, as ladder.yaml explains it."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from studies.ladder.rungs import LADDER
from troupe.params import Count, DataParams, Section, TokensParams, TrainParams


class Recipe(TrainParams):
    """How a rung is trained; `block_size` is its context, since a longer one is part of a recipe."""

    block_size: Annotated[int, Field(ge=2)]


class Settings(Section):
    seeds: Count
    data: DataParams
    tokens: TokensParams
    recipes: Annotated[dict[str, Recipe], Field(min_length=1)]
    held_out_tokens: Count | None
    sample: Count
    prompt: Annotated[str, Field(min_length=1)]
    ngram_max_order: Annotated[int, Field(ge=1, le=16)]
    published: list[float]

    @model_validator(mode="after")
    def published_has_every_rung(self) -> Self:
        if len(self.published) != len(LADDER):
            raise ValueError(f"published: {len(self.published)} losses for {len(LADDER)} rungs")
        return self
