"""The schema of a configuration of the decoding study, as decoding.yaml explains it."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from troupe.decoding import Decoding
from troupe.errors import ParamsError
from troupe.params import Count, Section


class Strategy(Section):
    """A decoding; its ranges are those of troupe.decoding.Decoding."""

    repetition_penalty: float = 1.0
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    greedy: bool = False

    def decoding(self) -> Decoding:
        """Raises ParamsError for a value out of range."""
        return Decoding(**self.model_dump())


class Settings(Section):
    seeds: Count
    texts: Annotated[int, Field(ge=16)]
    width: Annotated[int, Field(ge=16)]
    prompt: str | None
    shown_tokens: Count
    strategies: Annotated[dict[str, Strategy], Field(min_length=1)]

    @model_validator(mode="after")
    def strategies_are_in_range(self) -> Self:
        for name, strategy in self.strategies.items():
            try:
                strategy.decoding()
            except ParamsError as error:
                raise ValueError(f"strategies: {name}: {error}") from None
        return self
