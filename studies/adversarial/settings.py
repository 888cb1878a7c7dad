"""The schema of a configuration of the study of adversarial refinement, as adversarial.yaml explains it."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from studies.adversarial.text import TextParams
from troupe.adversarial.reinforce import LITERAL, Reinforce
from troupe.params import (
    Count,
    DdoParams,
    DistilParams,
    GameParams,
    GanParams,
    LikelihoodParams,
    ModelParams,
    Rate,
    ReferenceParams,
    Section,
    Share,
    TiltParams,
    TrainParams,
    Weight,
)

Temperature = Annotated[float, Field(gt=0)]
GAMES = ("reinforce", "distil", "ddo")  # how an arm may change its generator step by step
TILTS = ("tilt by likelihood", "tilt by ddo")  # how it may tilt one
ADVERSARIAL = (*GAMES, "tilt by ddo")  # all other learning is by likelihood: such an arm is a control
CRITIC = {"n_embd": "embd", "n_hidden": "hidden", "learning_rate": "learning_rate"}  # of a game: critic_<...>
METHODS: dict[str, type[GanParams | DistilParams | DdoParams]] = {
    "reinforce": GanParams,
    "distil": DistilParams,
    "ddo": DdoParams,
}
Family = Literal["linear", "likelihood", "boosted"]


class Arm(Section):
    """How the generator changes, and how it then writes.

    With `of` it writes otherwise, or tilts, what another arm has learned. `game` and `rules` are laid over those that
    all arms share; `literal`: the rules are those of the plain policy gradient, the discriminator reads tokens alone,
    its signal is not tested, and the last generator is kept.
    """

    of: str | None = None  # the arm whose generator and discriminator it takes; null: the ones that all start from
    learn: Literal[
        "nothing",
        "likelihood",
        "temperature",
        "longer",
        "reinforce",
        "distil",
        "ddo",
        "tilt by likelihood",
        "tilt by ddo",
    ] = "nothing"
    literal: bool = False
    game: dict[str, Any] = Field(default_factory=dict)
    rules: dict[str, Any] = Field(default_factory=dict)
    distil_candidates: Count = 8  # candidates of which distillation draws what the generator learns
    span: Count = 64  # tokens that are drawn together among candidates
    candidates: Count = 1  # of which one is drawn by the discriminator's score when it writes; 1: it writes as it is
    temperature: Temperature = 1.0  # at which it writes

    @model_validator(mode="after")
    def trained_in_one_arm(self) -> Self:
        if self.of and self.learn not in ("nothing", *TILTS):
            raise ValueError("learn: an arm with `of` writes otherwise or tilts, it learns nothing else")
        return self


class Small(Section):
    """The size of the two models that are not generators, in everything else like these."""

    n_layer: Count
    n_head: Count
    n_embd: Count


class DiscriminatorParams(Section):
    """Of the one by which resampling draws, and with which games begin: it must clear `bar` within `looks` rounds of
    `updates`; then it goes on for `more` rounds, and the round with the least cross-entropy on validation text counts.
    """

    texts: Count  # that the likelihood model generates to train it on; for each a real one
    bar: Share
    updates: Count
    looks: Count
    more: Annotated[int, Field(ge=0)]
    batch_size: Count


class Judging(Section):
    window: Count  # bytes
    windows: Count  # of each kind at most: to train classifiers on, and to test them on
    transformer_steps: Count  # of the transformer that judges see through
    seeds: Count  # of the classifiers of test text
    curve_seeds: Count  # at every other temperature
    few: Annotated[list[Family], Field(min_length=1)]  # used at other temperatures, and for every selection
    bits_margin: Weight  # share of bits per byte that counts as a difference when a model is selected
    kl_texts: Count


class Bars(Section):
    """What the promoted arm is held to."""

    cut: Share  # of the likelihood model's detection accuracy above one half
    bpb: Weight  # rise over the likelihood model's, as a share
    diversity: Share  # distance from real text, as a share, of each of `diversities`
    diversities: list[str]
    stretch: Share  # as `cut`, for a generator that writes as it is


class StudyGame(GameParams):
    """A game of the study: both players of any arm."""

    objective: Literal["gan", "wgan", "wgan-gp"]
    n_critic: Count
    warmup_critic: Annotated[int, Field(ge=0)]
    critic_learning_rate: Rate
    critic_embd: Count
    critic_hidden: Count
    clip: Annotated[float, Field(gt=0)]
    gradient_penalty: Weight


class Beginning(Section):
    """What the first job of a seed depends on: the models that all arms share, and their discriminator."""

    text: TextParams
    model: ModelParams
    small: Small
    likelihood: TrainParams
    others: TrainParams  # the reference and the independent model
    game: StudyGame
    discriminator: DiscriminatorParams


class Continued(Section):
    learning_rate: Rate
    adamw_learning_rate: Rate
    looks: Count


class Longer(Section):
    """Likelihood training from the same first weights, on the same text, as the start's but for so many steps."""

    steps: Count
    looks: Count


class Tilt(Section):
    """Of section `tilt` of params.yaml what is not the game's."""

    order: Annotated[int, Field(ge=2, le=16)]  # of the n-grams of the generator's text
    texts: Annotated[int, Field(ge=2)]  # of the real class; by DDO, for each one of the model's
    rounds: Count  # of DDO, at most


class Common(Beginning):
    """What all arms have in common."""

    continued: Continued
    longer: Longer
    tilt: Tilt
    rules: dict[str, Any]
    min_auc: Share  # a game's discriminator must have it at the start, by the lower limit of its interval
    judging: Judging
    temperatures: Annotated[list[Temperature], Field(min_length=1)]  # beside 1: of them the control selects
    curve: Annotated[list[Temperature], Field(min_length=2)]  # at which arms are judged that write token by token

    def game_of(self, arm: Arm) -> StudyGame:
        return StudyGame.model_validate(self.game.model_dump() | arm.game)

    def rules_of(self, arm: Arm) -> Reinforce:
        return LITERAL if arm.literal else Reinforce(**{**self.rules, **arm.rules})

    def tilt_params(self) -> TiltParams:
        return TiltParams(**self.tilt.model_dump(), prompt_length=self.game.prompt_length)

    def continued_for(self, steps: int) -> LikelihoodParams:
        """The section of params.yaml for the control that is trained on."""
        changes = self.continued.model_dump(exclude={"looks"})
        every = max(1, steps // self.continued.looks)
        changes |= {"steps": steps, "warmup_steps": 0, "decay_fraction": 1.0, "eval_interval": every}
        return LikelihoodParams.model_validate(self.likelihood.model_dump() | changes)

    def method_of(self, arm: Arm) -> GanParams | DistilParams | DdoParams:
        """The section of params.yaml for the method by which an arm learns; its discriminator is trained already."""
        game, rules = self.game_of(arm).model_dump(), asdict(self.rules_of(arm))
        given = game | rules | {"threads": 1, "candidates": arm.distil_candidates, "discriminator": self._reader(game)}
        schema = METHODS[arm.learn]
        if rules["reward"] != "objective" or not rules["normalise"]:
            raise ValueError("rules: reward and normalise are those of a literal arm alone")
        return schema.model_validate({name: given[name] for name in schema.model_fields})

    def _reader(self, game: Mapping[str, Any]) -> dict[str, Any]:
        trained, reference = self.discriminator.model_dump(), self.others.model_dump()
        reference |= self.small.model_dump()
        return {
            **{name: trained[name] for name in ("texts", "batch_size", "updates")},
            **{name: game[f"critic_{short}"] for name, short in CRITIC.items()},
            "rounds": self.discriminator.looks,
            "more_rounds": self.discriminator.more,
            "min_auc": self.min_auc,
            "reference": {name: reference[name] for name in ReferenceParams.model_fields},
        }


class Settings(Common):
    """A whole configuration."""

    seeds: Count
    workers: Count | None
    arms: dict[str, Arm]
    likelihood_arm: str  # that all others are held against
    best_temperature_arm: str
    bars: Bars

    @model_validator(mode="after")
    def arms_can_be_played(self) -> Self:
        for name, arm in self.arms.items():
            try:
                self.game_of(arm), self.rules_of(arm)
                if arm.learn in GAMES and not arm.literal:
                    self.method_of(arm)
            except (TypeError, ValueError) as error:
                raise ValueError(f"arms.{name}: {error}") from None
        for role in ("likelihood_arm", "best_temperature_arm"):
            if (name := getattr(self, role)) not in self.arms:
                raise ValueError(f"{role}: there is no arm {name!r}")
        return self

    @model_validator(mode="after")
    def others_have_learned(self) -> Self:
        for name, arm in self.arms.items():
            other = self.arms.get(arm.of) if arm.of else None
            if arm.of and (other is None or other.of):
                raise ValueError(f"arms.{name}.of: there is no arm {arm.of!r} that learns by itself")
            if arm.learn in TILTS and other and other.learn in TILTS:
                raise ValueError(f"arms.{name}.of: {arm.of!r} is tilted already")
            if arm.candidates > 1 and other and self.game_of(other).objective != "gan":
                raise ValueError(f"arms.{name}.of: the scores of {arm.of!r} are not odds; resampling needs a gan's")
        return self

    @model_validator(mode="after")
    def sequences_fit(self) -> Self:
        longest = max(game.prompt_length + game.sequence_length for game in map(self.game_of, self.arms.values()))
        if longest > self.model.block_size:
            raise ValueError(f"a sequence of {longest} tokens is longer than model.block_size, {self.model.block_size}")
        for name, arm in self.arms.items():
            if arm.candidates > 1 and arm.span >= self.model.block_size:
                raise ValueError(f"arms.{name}.span ({arm.span}) must be below model.block_size")
        return self
