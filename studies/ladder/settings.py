"""The schema of a configuration of the ladder, as ladder.yaml explains it."""

from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from studies.ladder.rungs import LADDER
from troupe.params import Count, DataParams, Section, TokensParams, TrainParams


class Recipe(TrainParams):
    """How a rung is trained; `block_size` is its context, since a longer one is part of a recipe, and `gain` what the
    matrices of a rung without residual connections are multiplied by at the start."""

    block_size: Annotated[int, Field(ge=2)]
    gain: Annotated[float, Field(gt=0)]


class Recipes(Recipe):
    """A recipe, and what rungs have otherwise, by name."""

    rungs: dict[str, dict[str, Any]]  # fields of Recipe, and `times`, which multiplies the steps

    def of(self, rung: str) -> Recipe:
        own = dict(self.rungs.get(rung, {}))
        times = own.pop("times", 1)
        lengths = {name: round(times * getattr(self, name)) for name in ("steps", "eval_interval")}
        return Recipe.model_validate(self.model_dump(exclude={"rungs"}) | lengths | own)

    @model_validator(mode="after")
    def every_rung_has_a_recipe(self) -> Self:
        if unknown := [*self.rungs.keys() - {rung.name for rung in LADDER}]:
            raise ValueError(f"rungs: there is no rung {unknown[0]!r}")
        for rung in LADDER:
            self.of(rung.name)
        return self


class Settings(Section):
    seeds: Count
    data: DataParams
    tokens: TokensParams
    recipes: Annotated[dict[str, Recipes], Field(min_length=1)]
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
