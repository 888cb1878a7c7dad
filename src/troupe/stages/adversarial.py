"""Stage adversarial: tokens, artifacts/pretrain and moe -> artifacts/adversarial: the expert model, refined.

Two ways, each against a discriminator of what the expert model writes, and each only if it is asked for: the model is
tilted, with itself as the discriminator (tilt.py); it learns from an LSTM in a game (learn, game.py). A discriminator
that cannot tell is not followed. Judges of validation text say what of all that is kept (duels.py).
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import cache

from troupe.compute import set_up
from troupe.data.dataset import TokenDataset
from troupe.data.room import check_tokens
from troupe.files import write_json
from troupe.layout import model_dir
from troupe.models.bundle import Bundle, load_bundle, save_bundle
from troupe.models.gpt2 import GPT
from troupe.params import AdversarialParams, Params
from troupe.stages.common import stage_main
from troupe.stages.contenders import Tried, contenders
from troupe.stages.duels import Duel, duels, kept
from troupe.stages.fit import finished
from troupe.stages.following import Followed, follow
from troupe.stages.game import NAME, Table, bits_per_byte_of_validation
from troupe.stages.hearing import Figures, Hearing, ValidationJudges, validation_judges
from troupe.stages.progress import track
from troupe.stages.tilt import tilt
from troupe.training.interruption import signals_noted
from troupe.training.probe import eager

NO_GAME = {"steps": 0, "stopped": None, "collapsed": False, "kept_step": 0}  # what summary.json says then
Judges = Callable[[], ValidationJudges]  # made when they are first asked for


def adversarial(params: Params) -> None:
    """Refine the expert model as the parameters say; write what judges of validation text find best."""
    data = TokenDataset.open()
    check_tokens(params, data)
    began, device = time.monotonic(), set_up(params.run)
    expert, dense = (load_bundle(model_dir(stage), device) for stage in ("moe", "pretrain"))
    how, _ = eager(params.run, dense.model, params.adversarial.reference_batch_size)
    measured = bits_per_byte_of_validation(data, how)
    bits_per_byte = cache(measured)  # of models that no longer change: each is asked for up to four times
    judges, table = cache(lambda: validation_judges(data, params)), Table(data, params, how)
    followed = try_game(expert, dense, data, judges, measured, table, params)
    tried = try_tilt(expert, followed, data, bits_per_byte, table, params)
    among = contenders(expert, tried)
    with signals_noted("while judges chose what is kept"):
        heard = hear_all(judges, among, bits_per_byte, params.adversarial) if len(among) > 1 else {}
    if heard:
        table.log(tried.steps + 1, dict(pair for name in heard for pair in heard[name].logged(name).items()))
    table.checkpoints.finish()
    fought = duels(heard, params.adversarial.max_bpb_rise)
    chosen = kept(heard, fought)
    facts = {
        **summary(params.adversarial, tried, heard, fought, chosen),
        "start/val/bpb": bits_per_byte(expert.model),
        "kept/val/bpb": bits_per_byte(among[chosen].model),
        "resumed_at_step": table.done,
        **asdict(how),
        "parameters": sum(parameter.numel() for parameter in among[chosen].model.parameters()),
        "weights_sha256": save(params, data, among[chosen], expert, dense, tried),
        "seconds": round(time.monotonic() - began, 1),
    }
    write_json(model_dir(NAME) / "summary.json", facts)
    print(f"{NAME}: kept {facts['kept']}", flush=True)
    finished(NAME)


def try_game(
    expert: Bundle,
    dense: Bundle,
    data: TokenDataset,
    judges: Judges,
    bits_per_byte: Callable[[GPT], float],
    table: Table,
    params: Params,
) -> Followed | None:
    """What came of a discriminator, if one is asked for. It comes first, since it may go on from a checkpoint: its
    steps come first in the log too."""

    def judge(model: GPT) -> float:
        return judges().hear(replace(expert, model=model)).accuracy

    if not params.adversarial.needs_discriminator:
        return None
    return follow(expert, dense, data, judge, bits_per_byte, table, params)


def try_tilt(
    expert: Bundle,
    followed: Followed | None,
    data: TokenDataset,
    bits_per_byte: Callable[[GPT], float],
    table: Table,
    params: Params,
) -> Tried:
    """What was tried, the tilt included if it is asked for."""
    tried = Tried(followed=followed)
    if not params.adversarial.tilt_rounds:
        return tried
    with signals_noted("while the model was tilted"):
        return tried._replace(tilting=tilt(expert, data, bits_per_byte, table.log, tried.steps, params))


def hear_all(
    judges: Judges, among: Mapping[str, Bundle], bits_per_byte: Callable[[GPT], float], settings: AdversarialParams
) -> dict[str, Hearing]:
    """What judges say of every contender, and what validation text costs it."""
    heard: dict[str, Hearing] = {}
    with track(f"{NAME}: judges", len(among)) as show:
        for name, bundle in among.items():
            found = judges().hear(bundle, settings.judge_seeds)
            heard[name] = replace(found, bpb=bits_per_byte(bundle.model))
            show(len(heard), {name: heard[name].accuracy})
    return heard


def summary(
    settings: AdversarialParams, tried: Tried, heard: Mapping[str, Hearing], fought: Sequence[Duel], chosen: str
) -> Figures:
    """What was asked for, what came of it, what judges said of every contender, and why one of them is kept."""
    tilting, followed = tried
    return {
        **{name: getattr(settings, name) for name in ("learn", "objective", "tilt_rounds")},
        **NO_GAME,
        **(tilting.facts() if tilting else {}),
        **(followed.facts(chosen) if followed else {}),
        "contenders": {name: hearing.facts() for name, hearing in heard.items()},
        "duels": [duel.facts() for duel in fought],
        "kept": f"{chosen}: {why(tried, fought)}",
    }


def why(tried: Tried, fought: Sequence[Duel]) -> str:
    return "; ".join([*tried.in_vain(), *map(str, fought)]) or "nothing else was asked for"


def save(params: Params, data: TokenDataset, chosen: Bundle, expert: Bundle, dense: Bundle, tried: Tried) -> str:
    """Write the model; returns its digest."""
    followed = tried.followed
    provenance = {
        "stage": NAME,
        "seed": params.run.seed,
        "corpus_sha256": data.corpus_sha256,
        "parent_weights_sha256": expert.sha256,
        **({"reference_weights_sha256": dense.sha256, **followed.references()} if followed else {}),
        "learn": params.adversarial.learn,
        "objective": params.adversarial.objective,
        "tilt_rounds_followed": tried.tilting.rounds_of(chosen.model) if tried.tilting else 0,
    }
    return save_bundle(model_dir(NAME), chosen.model, chosen.tokenizer, provenance)


if __name__ == "__main__":
    stage_main(NAME, adversarial)
