"""The schema of a configuration of the study of adversarial objectives, as gan.yaml explains it."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from studies.core.configuration import Looks
from studies.gan.arms import Arm
from troupe.params import Count, Rate, Section, Share

MixtureName = Literal["ring", "grid"]
Cells = Annotated[list[str], Field(min_length=3, max_length=3)]  # modes, high quality in per cent, reverse KL
NAMED = ("gan-minimax", "gan", "wgan", "wgan-gp")  # the arms that the claims compare


class Sweep(Section):
    mixture: MixtureName
    steps: Count
    seeds: Count
    learning_rates: Annotated[list[Rate], Field(min_length=1)]
    success: Share


class StrongCritic(Section):
    mixture: MixtureName
    steps: Count


class Published(Section):
    method: str
    source: str
    grid: Cells
    ring: Cells


class Settings(Section):
    seeds: Count
    batch_size: Count
    generator_hidden: list[Count]
    critic_hidden: list[Count]
    arms: dict[str, Arm]
    printed: dict[str, Arm]
    games: dict[MixtureName, Looks]
    sweep: Sweep
    strong_critic: StrongCritic
    published: list[Published]

    def players(self, mixture: MixtureName) -> dict[str, Arm]:
        """The arms that play on this mixture."""
        return self.arms | (self.printed if mixture == "grid" else {})

    @model_validator(mode="after")
    def the_claims_have_their_arms(self) -> Self:
        if self.arms.keys() != set(NAMED):
            raise ValueError(f"arms: the claims compare {', '.join(NAMED)}; others belong into `printed`")
        return self
