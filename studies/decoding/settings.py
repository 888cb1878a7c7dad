"""The schema of a configuration of the decoding study, as decoding.yaml explains it."""

from typing import Annotated, Any

from pydantic import Field, ValidatorFunctionWrapHandler, WrapValidator

from troupe.decoding import Decoding
from troupe.errors import ParamsError
from troupe.params import Count, Section


def _in_range(value: Any, validated: ValidatorFunctionWrapHandler) -> Any:
    """What a Decoding refuses, as pydantic takes it: the line then names the strategy."""
    try:
        return validated(value)
    except ParamsError as error:
        raise ValueError(str(error)) from None


class Settings(Section):
    seeds: Count
    texts: Annotated[int, Field(ge=16)]
    width: Annotated[int, Field(ge=16)]
    prompt: str | None
    shown_tokens: Count
    strategies: Annotated[dict[str, Annotated[Decoding, WrapValidator(_in_range)]], Field(min_length=1)]
