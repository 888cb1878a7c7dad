"""What is asked and what is answered, as the OpenAPI description of the server has it.

A field that is not named here is refused, and so is a value of another type: what a client asks for is done or said
not to be done.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from troupe.decoding import Decoding
from troupe.registry.request import EXAMPLE_PARAMS, FRESH, MOST_TOKENS

MOST_TEXTS = 16  # of a request: prompts times n
MOST_PROMPT = 4096  # tokens of a prompt
SEEDS = 2**53  # beyond it some JSON parsers round
LEAST_TEMPERATURE = 1e-30  # below which nothing is left to chance
ASKED = ConfigDict(extra="forbid", strict=True)


def _whole(value: object) -> object:
    """JSON has one kind of number: 16.0 is the integer 16."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Prompt = Annotated[str, Field(min_length=1)]
Stop = Annotated[str, Field(min_length=1, max_length=100)]
WHOLE = BeforeValidator(_whole)  # last: bounds that follow it are none of the JSON schema (pydantic issue 11576)
Tokens = Annotated[int, Field(ge=1, le=MOST_TOKENS), WHOLE]
Seed = Annotated[int, Field(ge=-SEEDS, le=SEEDS), WHOLE]
Temperature = Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)]
TopK = Annotated[int, Field(ge=0, lt=2**31), WHOLE]
TopP = Annotated[float, Field(gt=0, le=1)]
MinP = Annotated[float, Field(ge=0, le=1)]
PenaltyNumber = Annotated[float, Field(ge=0.01, le=100)]


class StreamOptions(BaseModel):
    model_config = ASKED

    include_usage: bool = False


class CompletionRequest(BaseModel):
    """OpenAI's parameters, as far as the sampler has them, and three of its own (top_k, min_p, repetition_penalty).

    `temperature` 0 takes the likeliest token. One `seed` gives one answer. A prompt longer than the model's context is
    continued from its end.
    """

    model_config = ASKED

    model: str | None = None
    prompt: Prompt | Annotated[list[Prompt], Field(min_length=1, max_length=MOST_TEXTS)]
    max_tokens: Tokens | None = None
    temperature: Temperature | None = None
    top_p: TopP | None = None
    n: Annotated[int, Field(ge=1, le=MOST_TEXTS), WHOLE] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    logprobs: Annotated[int, Field(ge=0, le=5), WHOLE] | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=4)] | None = None
    seed: Seed | None = None
    top_k: TopK | None = None
    min_p: MinP | None = None
    repetition_penalty: PenaltyNumber | None = None

    @property
    def prompts(self) -> list[str]:
        return [self.prompt] if isinstance(self.prompt, str) else self.prompt

    @property
    def stops(self) -> list[str]:
        return [self.stop] if isinstance(self.stop, str) else self.stop or []

    def decoding(self, recommended: Decoding | None = None) -> Decoding:
        """What is asked for, the rest with OpenAI's defaults: temperature and top_p 1. Where nothing is asked for, what
        is recommended for the model."""
        asked = (self.temperature, self.top_p, self.top_k, self.min_p, self.repetition_penalty)
        if recommended and all(value is None for value in asked):
            return recommended
        temperature = 1.0 if self.temperature is None else self.temperature
        return Decoding(
            repetition_penalty=self.repetition_penalty or 1.0,
            temperature=temperature if temperature >= LEAST_TEMPERATURE else 1.0,
            top_k=self.top_k or None,
            top_p=self.top_p,
            min_p=self.min_p,
            greedy=temperature < LEAST_TEMPERATURE,
        )


class LogprobsShown(BaseModel):
    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]


class CompletionChoice(BaseModel):
    index: int
    text: str
    logprobs: LogprobsShown | None
    finish_reason: Literal["stop", "length"] | None


class Usage(BaseModel):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Completion(BaseModel):
    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    system_fingerprint: str  # of the weights: the same seed gives the same text under the same ones
    choices: list[CompletionChoice]
    usage: Usage | None


class Model(BaseModel):
    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class ModelList(BaseModel):
    object: Literal["list"]
    data: list[Model]


class Health(BaseModel):
    """`degraded`: it answers, but not with what the registry names, for the reason in `fault`."""

    status: Literal["ok", "degraded", "down"]
    model: str
    version: str
    weights_sha256: str
    fault: str | None


class InvocationParams(BaseModel):
    """As the registered model has them; its own defaults."""

    model_config = ASKED

    max_new_tokens: Tokens = int(EXAMPLE_PARAMS["max_new_tokens"])
    temperature: Annotated[float, Field(ge=LEAST_TEMPERATURE, le=1e30)] = EXAMPLE_PARAMS["temperature"]
    top_k: TopK = int(EXAMPLE_PARAMS["top_k"])
    top_p: TopP = EXAMPLE_PARAMS["top_p"]
    min_p: MinP = EXAMPLE_PARAMS["min_p"]
    seed: Annotated[int, Field(ge=FRESH, le=SEEDS), WHOLE] = FRESH

    def decoding(self) -> Decoding:
        return Decoding(temperature=self.temperature, top_k=self.top_k or None, top_p=self.top_p, min_p=self.min_p)


class Invocation(BaseModel):
    model_config = ASKED

    inputs: Annotated[list[Prompt], Field(min_length=1, max_length=MOST_TEXTS)]
    params: InvocationParams = Field(default_factory=InvocationParams)


class InvocationAnswer(BaseModel):
    predictions: list[str]


class ErrorDetail(BaseModel):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorAnswer(BaseModel):
    """As OpenAI's; of /invocations also as MLflow's."""

    error: ErrorDetail


class InvocationError(BaseModel):
    error_code: str
    message: str
