"""Which stage's model is put forward for promotion: decided on validation text only."""

from collections.abc import Mapping

from troupe.evaluation.result import Candidate, ModelFound


def choose(models: Mapping[str, ModelFound], margin: float) -> Candidate:
    """The stage that the validation judge catches least often, among those that predict about as well as the best.

    "About as well" is within `margin` bits per byte of validation text. Accuracies within one standard error of the
    lowest are a tie, and none counts as below one half: then the better predictor wins, then the earlier stage.
    """
    bpb = {stage: model.validation.bpb for stage, model in models.items()}
    judge = {stage: model.validation.judge for stage, model in models.items()}
    accuracy = {stage: max(0.5, found.accuracy) for stage, found in judge.items()}
    near = [stage for stage in models if bpb[stage] <= min(bpb.values()) + margin]
    least = min(near, key=accuracy.__getitem__)
    tied = [name for name in near if accuracy[name] <= accuracy[least] + judge[least].standard_error]
    stage = min(tied, key=bpb.__getitem__)
    return Candidate(stage=stage, reason=_reason(stage, near, tied, bpb, accuracy, margin))


def _reason(
    stage: str,
    near: list[str],
    tied: list[str],
    bpb: Mapping[str, float],
    accuracy: Mapping[str, float],
    margin: float,
) -> str:
    if len(near) == 1:
        return f"no other stage is within {margin:g} bits per byte of its {bpb[stage]:.3f} on validation text"
    others = ", ".join(f"{name} {accuracy[name]:.3f}" for name in near if name != stage)
    caught = f"({accuracy[stage]:.3f}; {others}) of the stages within {margin:g} bits per byte of the lowest"
    if len(tied) == 1:
        return f"on validation text the judge catches it least often {caught}"
    return f"on validation text it predicts best ({bpb[stage]:.3f}) of those the judge cannot rank {caught}"
