"""Which stage's model is put forward for promotion: decided on validation text only."""

from collections.abc import Mapping
from typing import Any


def choose(models: Mapping[str, Any], margin: float) -> dict[str, str]:
    """The stage whose validation judge accuracy is lowest among those that predict about as well as the best.

    `models` is that of reports/metrics.json; "about as well" is within `margin` bits per byte of validation text.
    On a tie the better predictor wins, then the earlier stage. Returns {"stage", "reason"}.
    """
    bpb = {stage: model["validation"]["bpb"] for stage, model in models.items()}
    accuracy = {stage: model["validation"]["judge"]["accuracy"] for stage, model in models.items()}
    near = [stage for stage in models if bpb[stage] <= min(bpb.values()) + margin]
    stage = min(near, key=lambda name: (accuracy[name], bpb[name]))
    return {"stage": stage, "reason": _reason(stage, near, bpb, accuracy, margin)}


def _reason(stage: str, near: list[str], bpb: Mapping[str, float], accuracy: Mapping[str, float], margin: float) -> str:
    if len(near) == 1:
        return f"no other stage is within {margin:g} bits per byte of its {bpb[stage]:.3f} on validation text"
    others = ", ".join(f"{name} {accuracy[name]:.3f}" for name in near if name != stage)
    return (
        f"on validation text the judge catches it least often ({accuracy[stage]:.3f}; {others}) "
        f"of the stages within {margin:g} bits per byte of the lowest"
    )
