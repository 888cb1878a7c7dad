"""The schema of a configuration of the mixture, as mixture.yaml explains it."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from troupe.errors import ParamsError
from troupe.params import Count, DataParams, ModelParams, Section, TokensParams, TrainParams


class Settings(Section):
    seeds: Count
    texts: Annotated[dict[str, DataParams], Field(min_length=1)]
    tokens: TokensParams
    model: ModelParams
    train: TrainParams
    order: Annotated[int, Field(ge=2, le=16)]
    updates: Count
    held_out_tokens: Count | None
    bars: dict[str, dict[str, float]]

    def only(self, text: str) -> Self:
        """With one of the texts. Raises ParamsError if there is none of this name."""
        if text not in self.texts:
            raise ParamsError(f"--text {text}: the configuration has {', '.join(self.texts)}")
        bars = {text: self.bars[text]} if text in self.bars else {}
        return self.model_copy(update={"texts": {text: self.texts[text]}, "bars": bars})

    @model_validator(mode="after")
    def bars_are_of_texts(self) -> Self:
        if unknown := [name for name in self.bars if name not in self.texts]:
            raise ValueError(f"bars: no text is named {unknown[0]!r}")
        return self
