"""The game of the adversarial stage: its players and rules, with log, progress and checkpoints."""

from collections.abc import Callable, Mapping
from functools import partial

from troupe.adversarial.ddo import ddo_step
from troupe.adversarial.game import Game, GameText
from troupe.adversarial.loop import Judge, Learn, Outcome, Validate, refine
from troupe.adversarial.policy import update_generator
from troupe.adversarial.reinforce import Reinforce
from troupe.adversarial.resampling import distil_step
from troupe.adversarial.selection import Bounds
from troupe.compute import Arithmetic
from troupe.data.dataset import TokenDataset
from troupe.layout import CORPUS, model_dir
from troupe.models.bundle import CONFIG, WEIGHTS, Bundle
from troupe.models.gpt2 import GPT
from troupe.models.mode import evaluating
from troupe.models.reader import Discriminator
from troupe.params import AdversarialParams, Params, RulesParams
from troupe.stages.log import MetricsLog
from troupe.stages.progress import track
from troupe.training.checkpoint import Checkpoints, folder_of, run_key
from troupe.training.context import RunContext
from troupe.training.interruption import signals_noted
from troupe.training.validation import validate

NAME = "adversarial"
SHOWN = ("critic/loss", "reward/mean", "generator/kl", "val/bpb", "critic/auc", "val/judge")  # in the progress line


def new_game(start: Bundle, discriminator: Discriminator, data: TokenDataset, params: Params) -> Game:
    """A gan's discriminator goes on with what it has learned; another objective's scores are of another unit: it begins
    anew."""
    settings = params.adversarial
    goes_on = settings.objective == "gan"
    warmup = {"warmup_critic": 0} if goes_on else {}
    unproved = settings.learn == "reinforce" and not goes_on
    game = Game(
        start.model,
        GameText(data.shards("critic"), data.ids("validation"), data.tokenizer),
        settings.model_copy(update=warmup),
        params.run.seed,
        Reinforce(**settings.model_dump(include={*RulesParams.model_fields})),
        discriminator.features.references,
        Bounds(settings.max_bpb_rise, settings.min_distinct, min_auc=settings.min_auc if unproved else 0.0),
    )
    if goes_on:
        game.critic.load_state_dict(discriminator.critic.state_dict())
    return game


def learning(start: GPT, params: AdversarialParams) -> Learn:
    """An update of the generator, as `learn` says."""
    steps: Mapping[str, Learn] = {
        "reinforce": update_generator,
        "distil": partial(distil_step, candidates=params.among),
        "ddo": partial(ddo_step, start=start),
    }
    return steps[params.learn]


class Table:
    """Where a game is played: its log, the checkpoints of earlier attempts, the newest of which it goes on from."""

    def __init__(self, data: TokenDataset, params: Params, how: Arithmetic) -> None:
        journal = model_dir(NAME) / "metrics.jsonl"
        self.checkpoints = Checkpoints(folder_of(NAME, key_of(data, params), how), journal)
        self.resume = self.checkpoints.newest()
        self.done = self.resume.step if self.resume else 0
        self.log = MetricsLog(journal, self.done)

    def play(self, game: Game, validate: Validate, learn: Learn, judge: Judge) -> Outcome:
        """Play, or the rest of it. Raises Interrupted after the step in progress and a last checkpoint."""
        with track(NAME, game.params.steps, self.done) as show, signals_noted() as interrupted:

            def log_and_show(step: int, figures: Mapping[str, float]) -> None:
                self.log(step, figures)
                show(step, {name: figures[name] for name in SHOWN if name in figures})

            save = self.checkpoints.save
            context = RunContext(log=log_and_show, save=save, resume=self.resume, interrupted=interrupted)
            return refine(game, validate, context, learn, judge)


def key_of(data: TokenDataset, params: Params) -> str:
    """With any of what the result depends on changed, the game starts afresh."""
    models = [model_dir(stage) / name for stage in ("pretrain", "moe") for name in (WEIGHTS, CONFIG)]
    inputs = [*data.files("train", "critic", "validation"), CORPUS / "manifest.json", *models]
    return run_key(NAME, {"run": params.run, NAME: params.adversarial}, inputs)


def bits_per_byte_of_validation(data: TokenDataset, how: Arithmetic) -> Callable[[GPT], float]:
    """The figure that pretrain and moe report too, of the same text."""
    ids, n_bytes = data.ids("validation"), data.n_bytes["validation"]

    def bits_per_byte(model: GPT) -> float:
        with evaluating(model):  # `validate` leaves a model in training mode
            return validate(model, ids, n_bytes, how.autocast)["val/bpb"]

    return bits_per_byte
