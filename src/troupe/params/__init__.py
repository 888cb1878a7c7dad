"""The schema of params.yaml: types, ranges and units. It holds no default: every value has its one home in the file."""

from troupe.params.adversarial import (
    AdversarialParams,
    DdoParams,
    DiscriminatorParams,
    DistilParams,
    GameParams,
    GanParams,
    ReferenceParams,
    RefinementParams,
    TiltParams,
)
from troupe.params.files import checked, dump_params, load_params
from troupe.params.schema import (
    INCIDENTAL,
    DataParams,
    EvaluateParams,
    JudgingParams,
    ModelParams,
    Params,
    PromoteParams,
    RunParams,
    TokensParams,
)
from troupe.params.section import Count, Rate, Section, Share, Weight
from troupe.params.training import MoeParams, PretrainParams, TrainParams, grouped_fault

__all__ = [
    "INCIDENTAL", "AdversarialParams", "Count", "DataParams", "DdoParams", "DiscriminatorParams", "DistilParams",
    "EvaluateParams", "GameParams", "GanParams", "JudgingParams", "ModelParams", "MoeParams", "Params",
    "PretrainParams", "PromoteParams", "Rate", "ReferenceParams", "RefinementParams", "RunParams", "Section", "Share",
    "TiltParams", "TokensParams", "TrainParams", "Weight", "checked", "dump_params", "grouped_fault", "load_params",
]  # fmt: skip
