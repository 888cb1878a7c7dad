"""The section of the adversarial stage."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from troupe.params.section import Count, Rate, Section, Share, Weight


class GameParams(Section):
    """What two players over text need (adversarial/game.py)."""

    objective: Literal["gan", "wgan", "wgan-gp"]
    steps: Count
    batch_size: Annotated[int, Field(ge=2)]
    sequence_length: Count
    prompt_length: Count
    learning_rate: Rate
    n_critic: Count
    warmup_critic: Annotated[int, Field(ge=0)]
    critic_learning_rate: Rate
    critic_embd: Count
    critic_hidden: Count
    clip: Annotated[float, Field(gt=0)]
    gradient_penalty: Weight
    grad_clip: Annotated[float, Field(gt=0)]
    max_bpb_rise: Weight
    min_distinct: Share
    eval_interval: Count
    checkpoint_interval: Count

    @model_validator(mode="after")
    def something_is_left_to_tell(self) -> Self:
        whole = self.prompt_length + self.sequence_length
        if self.sequence_length <= whole // 8:
            raise ValueError(
                f"sequence_length ({self.sequence_length}) must be more than an eighth of it and prompt_length "
                f"together ({whole}): the last eighth is cut off (reader.canonical)"
            )
        return self


class RulesParams(Section):
    """What holds a generator near its start, and how it learns from rewards (adversarial.reinforce.Reinforce)."""

    kl_cap: Annotated[float, Field(gt=0)]
    likelihood_every: Annotated[int, Field(ge=0)]
    per_token: bool
    baseline: Literal["none", "batch mean", "leave one out"]
    kl_weight: Weight


class AdversarialParams(GameParams, RulesParams):
    tilt_rounds: Annotated[int, Field(ge=0)]
    tilt_order: Annotated[int, Field(ge=2, le=16)]
    tilt_texts: Annotated[int, Field(ge=2)]
    learn: Literal["none", "reinforce", "distil", "ddo"]
    among: Count
    threads: Annotated[int, Field(ge=1, le=256)]
    reference_layers: Count
    reference_embd: Annotated[int, Field(ge=2, multiple_of=2)]
    reference_steps: Count
    reference_batch_size: Count
    reference_learning_rate: Rate
    min_auc: Share
    critic_texts: Annotated[int, Field(ge=2)]
    critic_batch_size: Count
    critic_updates: Count
    critic_looks: Count
    critic_rounds: Annotated[int, Field(ge=0)]
    judge_texts: Annotated[int, Field(ge=10)]
    judge_seeds: Annotated[int, Field(ge=1, le=100)]

    @property
    def needs_discriminator(self) -> bool:
        """Whether a generator learns from one."""
        return self.learn != "none"

    @model_validator(mode="after")
    def scores_are_odds_where_odds_are_needed(self) -> Self:
        if self.objective != "gan" and self.learn == "distil":
            raise ValueError(
                f"distil needs scores that are odds, and those of {self.objective} are none; "
                'SET="adversarial.objective=gan" or "adversarial.learn=reinforce"'
            )
        return self
