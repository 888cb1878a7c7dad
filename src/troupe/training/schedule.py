"""The learning rate over time: a trapezoid (warm-up, plateau, decay), as a factor of the rates in params.yaml.

Linear warm-up, a constant stretch and a linear decay to zero match a cosine at its best length, and the plateau can be
extended without knowing the length beforehand: Hägele et al. 2024, "Scaling Laws and Compute-Optimal Training Beyond
Fixed Training Durations" (arXiv 2405.18392), section 3.
"""

from troupe.params import TrainParams


def learning_rate_factor(step: int, params: TrainParams) -> float:
    """The factor in (0, 1] for update `step`, counted from 0: the first `warmup_steps` rise to 1, the last
    `decay_fraction` of all steps fall linearly, so that the update after the last would have rate 0."""
    rise = (step + 1) / max(1, params.warmup_steps)
    fall = (params.steps - step) / max(1.0, params.decay_fraction * params.steps)
    return min(1.0, rise, fall)
