"""Stage adversarial: tokens, artifacts/pretrain and moe -> artifacts/adversarial: the expert model, refined.

A discriminator learns to tell what the expert model writes (critic.py). If it can, the model may learn from it (learn,
game.py) and may draw among candidates by its score (candidates, troupe/resampling.py), and judges of validation text
say what of that is kept (contenders.py). If it cannot, there is nothing to follow: the expert model stays as it is.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

from troupe.adversarial.discrimination import Verdict
from troupe.adversarial.game import Game
from troupe.adversarial.loop import Outcome
from troupe.adversarial.selection import distinct_2, no_signal
from troupe.compute import arithmetic, set_up, torch_threads
from troupe.files import read_json, write_json
from troupe.layout import TOKENS, model_dir
from troupe.models.bundle import Bundle, load_bundle, save_bundle
from troupe.models.gpt2 import GPT
from troupe.params import AdversarialParams, Params
from troupe.stages.common import stage_main
from troupe.stages.contenders import (
    Duel,
    Figures,
    Hearing,
    ValidationJudges,
    contenders,
    duels,
    kept,
    validation_judges,
)
from troupe.stages.critic import taught
from troupe.stages.fit import finished
from troupe.stages.game import NAME, Table, bits_per_byte_of_validation, learning, new_game
from troupe.stages.progress import track
from troupe.training.interruption import signals_noted


def adversarial(params: Params) -> None:
    """Refine the expert model against an LSTM discriminator, if that has a signal; write what judges of validation text
    find best."""
    began, device = time.monotonic(), set_up(params.run)
    settings, how = params.adversarial, arithmetic(params.run, device)
    expert, dense = (load_bundle(model_dir(stage), device) for stage in ("moe", "pretrain"))
    table = Table(params, how)
    with signals_noted("while the discriminator learned"):
        discriminator, verdict = taught(expert, dense, params)
        judges = validation_judges(expert.tokenizer, params)
    print(f"{NAME}: {verdict}", flush=True)

    def judge(model: GPT) -> float:
        return judges.hear(replace(expert, model=model)).accuracy

    game = new_game(expert, discriminator, verdict.signal, params)
    validate, learn = bits_per_byte_of_validation(params, device), learning(game.start, settings)
    with torch_threads(settings.threads):  # not run.threads: params.yaml says why
        outcome = table.play(game, validate, learn, judge if game.params.steps else None)
    with signals_noted("while judges chose what is kept"):
        refined = game.generator if outcome.kept.step else None
        last = replace(discriminator, critic=game.critic)
        among = contenders(expert, refined, discriminator, last, settings) if verdict.signal else {"start": expert}
        heard = hear_all(judges, among, settings) if verdict.signal else {}
    fought = duels(heard)
    chosen = kept(heard, fought) if heard else "start"
    table.log(game.params.steps + 1, {f"contender/{name}": hearing.accuracy for name, hearing in heard.items()})
    table.checkpoints.finish()
    facts = {
        **summary(settings, verdict, game, outcome, heard, fought, chosen),
        "resumed_at_step": table.done,
        "device": how.device,
        "torch": how.torch,
        "parameters": sum(parameter.numel() for parameter in game.generator.parameters()),
        "weights_sha256": save(params, among[chosen], expert, dense),
        "seconds": round(time.monotonic() - began, 1),
    }
    write_json(model_dir(NAME) / "summary.json", facts)
    print(f"{NAME}: kept {facts['kept']}", flush=True)
    finished(NAME)


def hear_all(judges: ValidationJudges, among: Mapping[str, Bundle], settings: AdversarialParams) -> dict[str, Hearing]:
    """What judges say of every contender."""
    heard: dict[str, Hearing] = {}
    with track(f"{NAME}: judges", len(among)) as show:
        for name, bundle in among.items():
            heard[name] = judges.hear(bundle, settings.judge_seeds)
            show(len(heard), {name: heard[name].accuracy})
    return heard


def summary(
    settings: AdversarialParams,
    verdict: Verdict,
    game: Game,
    outcome: Outcome,
    heard: Mapping[str, Hearing],
    fought: Sequence[Duel],
    chosen: str,
) -> Figures:
    """What the discriminator found, what was played, the first and the kept look, what judges said of every contender,
    and why one of them is kept."""
    start, look = outcome.start, outcome.kept if chosen.startswith("refined") else outcome.start
    return {
        "learn": settings.learn,
        "objective": settings.objective,
        "candidates": settings.candidates,
        "signal": verdict.signal,
        "discriminator": str(verdict),
        "discriminator/auc": verdict.interval.auc,
        "discriminator/auc_low": verdict.interval.low,
        "discriminator/auc_high": verdict.interval.high,
        "steps": game.params.steps,
        "stopped": outcome.fault,
        "collapsed": outcome.fault is not None and no_signal(start, game.bounds) is None,
        "contenders": {name: hearing.figures for name, hearing in heard.items()},
        "duels": [duel.facts() for duel in fought],
        "kept": f"{chosen}: {why(verdict, outcome, fought)}",
        "kept_step": look.step,
        **{f"start/{name}": value for name, value in start.figures().items()},
        **{f"kept/{name}": value for name, value in look.figures().items()},
        "real/val/distinct_2": distinct_2(game.held_out_BT[:, settings.prompt_length :]),
    }


def why(verdict: Verdict, outcome: Outcome, fought: Sequence[Duel]) -> str:
    if not verdict.signal:
        return str(verdict)
    reason = "; ".join(map(str, fought)) or "no other was told less at any look"
    return f"{reason}; the game stopped, for {outcome.fault}" if outcome.fault else reason


def save(params: Params, chosen: Bundle, expert: Bundle, dense: Bundle) -> str:
    """Write the model, with its sampler if it has one; returns its digest."""
    provenance = {
        "stage": NAME,
        "seed": params.run.seed,
        "corpus_sha256": read_json(TOKENS / "meta.json")["corpus_sha256"],
        "parent_weights_sha256": expert.sha256,
        "reference_weights_sha256": dense.sha256,
        "learn": params.adversarial.learn,
        "objective": params.adversarial.objective,
    }
    return save_bundle(model_dir(NAME), chosen.model, chosen.tokenizer, provenance, chosen.resampling)


if __name__ == "__main__":
    stage_main(NAME, adversarial)
