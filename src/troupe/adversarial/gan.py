"""SeqGAN from a trained start: REINFORCE against an LSTM discriminator (Yu et al. 2017, arXiv:1609.05473).

The discriminator is trained on the start's text first; without a signal on validation text nothing is played. Then
both players take turns (loop.py): the discriminator on fresh text of either kind, the generator along the policy
gradient of the discriminator's score (policy.py, reinforce.py), under any of three objectives (objectives.py).
"""

from troupe.adversarial.game import Bounds, Game, GameText, Opponent
from troupe.adversarial.loop import play
from troupe.adversarial.method import MethodResult, Task
from troupe.adversarial.objectives import objective_of
from troupe.adversarial.policy import update_generator
from troupe.adversarial.pretraining import Pretrained, goes_on, new_critic, pretrained
from troupe.adversarial.reinforce import Reinforce
from troupe.models.discriminator import init_discriminator
from troupe.params import GanParams
from troupe.seeding import generator


def run(task: Task, settings: GanParams) -> MethodResult:
    """One candidate, the refined generator; none without a signal, or if no generator stayed within bounds."""
    return run_against(pretrained(task, settings), task, settings)


def run_against(before: Pretrained, task: Task, settings: GanParams) -> MethodResult:
    """The same with a discriminator that was trained before, which is trained further if the objective is gan."""
    if not before.found.signal:
        return MethodResult({}, before.facts(), str(before.found))
    game = new_game(task, settings, before)
    return play(task, "gan", game, update_generator, before)


def new_game(task: Task, settings: GanParams, before: Pretrained) -> Game:
    rules = Reinforce(
        per_token=settings.per_token,
        baseline=settings.baseline,
        kl_weight=settings.kl_weight,
        kl_cap=settings.kl_cap,
        likelihood_every=settings.likelihood_every,
    )
    min_auc = 0.0 if goes_on(settings) else settings.discriminator.min_auc  # of a gan the signal is shown already
    game = Game(
        task.start.model,
        GameText(task.data.shards("critic"), task.data.ids("validation"), task.data.tokenizer),
        settings,
        task.seed,
        rules,
        opponent_after(task, settings, before),
        Bounds(settings.max_bpb_rise, settings.min_distinct, min_auc),
    )
    if not goes_on(settings):
        game.against.critic.standardise(game.read(game.real(0)).features_NTF)
    return game


def opponent_after(task: Task, settings: GanParams, before: Pretrained) -> Opponent:
    """The discriminator as it was trained before; for another objective than gan a new one."""
    discriminator, rate, warmup = before.discriminator, settings.discriminator.learning_rate, 0
    critic = discriminator.critic
    if not goes_on(settings):
        critic, warmup = new_critic(task, settings, len(discriminator.features.references)), settings.warmup_critic
        init_discriminator(critic, generator(task.seed, "adversarial", "critic"))
        critic.to(task.device)
    objective = objective_of(settings.objective, settings.clip, settings.gradient_penalty)
    return Opponent(critic, discriminator.features, objective, rate, settings.n_critic, warmup)
