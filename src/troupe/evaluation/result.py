"""What an evaluation has found: reports/metrics.json as a value with types, written by stage evaluate.

Report, plots and the summary of a run read it through this module. What tells generated from real text is a judge, a
classifier trained for the purpose; of several families of judges the one with the highest accuracy counts, the worst:
on validation text, and that family's figures on test text.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from troupe.errors import ArtifactError
from troupe.files import read_json, write_json
from troupe.judging.detection import Detection
from troupe.layout import METRICS


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


Found = TypeVar("Found", bound=Part)


class WorstDetection(Detection):
    family: str


class ControlDetection(WorstDetection):
    judges: Mapping[str, Detection]  # by family


class OnSplit(Part):
    """What was measured of a model on one split."""

    bpb: float
    judge: WorstDetection
    judges: Mapping[str, Detection]


class ModelFound(Part):
    weights_sha256: str
    parameters: int
    validation: OnSplit
    test: OnSplit
    quality: Mapping[str, float]  # of its texts: evaluation/quality.py


class Likelihood(Part):
    bpb: float


class DenseContinued(Part):
    """The dense model trained on for as long as the one with experts."""

    parameters: int
    validation: Likelihood
    test: Likelihood


class RealText(Part):
    quality: Mapping[str, float]


class Power(Part):
    """What judges detect of real text of which a share of the words is a model's own; by family, in the order of the
    shares."""

    shares: Sequence[float]
    judges: Mapping[str, Sequence[Detection]]

    def smallest(self, family: str) -> float | None:
        """The smallest of the shares from which on the 95 % interval lies above one half; None if none does."""
        found = None
        for share, detection in zip(reversed(self.shares), reversed(self.judges[family]), strict=True):
            if detection.low <= 0.5:
                break
            found = share
        return found


class Controls(Part):
    real_against_real: ControlDetection
    known_bad: ControlDetection
    shuffled_words: ControlDetection
    copied: ControlDetection
    power: Power
    real_text: RealText
    dense_continued: DenseContinued | None = None


class Measured(Part):
    """How many bytes of a split the figures are of."""

    bytes: int
    of: int


class JudgeDescription(Part):
    """Who judges. Figures under different digests cannot be compared."""

    name: str
    families: Mapping[str, str]
    seeds: int
    window_bytes: int
    texts: int
    digest: str


class Counted(Part):
    """Bits per byte of Kneser-Ney models of bytes, by order."""

    order_chosen_on_validation: int
    validation: Mapping[str, float]
    test: Mapping[str, float]


class Rivals(Part):
    """Bits per byte of test text: of xz -9e after the training text, and of counts mixed without a network, unless the
    vocabulary is too large for that."""

    xz: float
    counts: float | None


class Curve(Part):
    """A point of a model for each temperature: temperature, accuracy of the worst of few judges, figures of texts."""

    judges: Sequence[str]
    models: Mapping[str, Sequence[Mapping[str, float]]]
    real_text: Mapping[str, float]


class Initial(Part):
    model_config = ConfigDict(extra="allow", frozen=True)  # what identifies the weights differs by where they came from

    init_from: str
    has_seen: str


class Chosen(Part):
    """The stage whose model is put forward for promotion, and why: selected on validation text."""

    stage: str
    reason: str


def read_found(kind: type[Found], path: Path) -> Found:
    """A file of stage evaluate. Raises ArtifactError, naming the first field at fault, if it is missing or of another
    shape."""
    try:
        return kind.model_validate(read_json(path))
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        raise ArtifactError(f"{path}: {field}: {first['msg']}; run stage evaluate again") from None


class Evaluation(Part):
    test_sha256: str
    text: Mapping[str, Measured]  # by split
    initial: Initial | None
    judge: JudgeDescription
    models: Mapping[str, ModelFound]  # by stage
    controls: Controls
    curve: Curve | None
    ngram: Counted
    rivals: Rivals | None = None  # of an evaluation of an earlier release
    candidate: Chosen

    @classmethod
    def read(cls, path: Path = METRICS) -> Self:
        """As `read_found` does."""
        return read_found(cls, path)

    def write(self, path: Path = METRICS) -> None:
        """As `read` reads it. Raises ValueError for a figure that is not finite."""
        write_json(path, self.model_dump(exclude_unset=True))


class RoundedBits(Part):
    """Bits per byte of test text of one network, by what its weights are kept in."""

    float32: float
    int8: float


class Greedy(Part):
    """What the int8 network writes in Python after `prompt`, taking the likeliest token each time; the float32 network
    writes the first `as_float32` of these tokens too."""

    prompt: str
    ids: Sequence[int]
    as_float32: int


class Embedded(Part):
    """The network of the candidate for the page, of evaluation/embedded.py; or, in `refused`, why it is not there."""

    stage: str
    tilted: bool  # then the page has the network without its tilt
    parameters: int
    refused: str | None = None
    bits: RoundedBits | None = None
    greedy: Greedy | None = None
    data: Mapping[str, Any] | None = None  # {"model", "tokenizer"}, as the page reads it


class Routed(Part):
    """The experts that one token took in one head, by a router of values or of outputs, the largest gate first."""

    experts: Sequence[int]
    gates: Sequence[float]


class Routing(Part):
    """Which experts the tokens of one sentence took."""

    sentence: str
    tokens: Sequence[str]
    n_expert: int
    layers: Sequence[Mapping[str, Sequence[Sequence[Routed]]]]  # [layer]["values" | "outputs"][head][token]
