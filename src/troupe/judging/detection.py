"""The figures of a classifier two-sample test (two_sample.py). This module imports nothing that takes time."""

from pydantic import BaseModel, ConfigDict


class Detection(BaseModel):
    """How well classifiers of one family tell generated from real text, over all repetitions; accuracy 0.5: not at all.

    The variance of the accuracy is never below that of a binomial. "jsd_low" is the bound that holds for other text
    too; a bound below 0 bits, which a classifier that errs with confidence reaches, says nothing and stands as 0.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    accuracy: float
    low: float  # of its 95 % interval
    high: float
    auc: float
    correct: int  # of the n windows that were tested
    n: int
    standard_error: float
    jsd: float  # bits of Jensen-Shannon divergence that there are at least
    jsd_low: float
    jsd_high: float
