"""An arm of the study that tilts a generator: nine numbers of it learn, by likelihood or from what it writes itself.

N texts, T tokens (prompt and continuation).
"""

from dataclasses import asdict

import torch
from torch import Tensor

from studies.adversarial.measures import Bench, Writer
from studies.adversarial.text import Role
from studies.adversarial.world import World
from studies.core.jobs import Figures
from troupe.adversarial.tilt_fit import Texts, by_likelihood, ddo_round
from troupe.models.gpt2 import GPT
from troupe.models.ngrams import NGrams
from troupe.models.tilted import Tilted, tilted


def untilted(model: GPT, world: World, order: int) -> Tilted:
    """A copy that knows the n-grams of the generator's text, and makes nothing of them yet."""
    return tilted(model, NGrams.counted(world.text.ids["generator"], order, model.config.vocab_size))


def tilt_by_likelihood(model: Tilted, bench: Bench) -> Figures:
    """Of the discriminators' real class, in place; what there is to say of it."""
    by_likelihood(model, _real(bench, "real"), bench.settings.game.prompt_length)
    return {"tilt": model.tilt.tolist()}


def tilt_by_ddo(model: Tilted, bench: Bench) -> Figures:
    """Rounds of DDO, in place: each learns to tell real text from what the model writes, which is how it is tilted.

    The judges of validation text choose among the start and all rounds; where a round cannot tell, it ends.
    """
    kept, least, best = 0, _selection(model, bench), model.tilt.detach().clone()
    rounds: list[Figures] = []
    for number in range(1, bench.settings.tilt.rounds + 1):
        train, held_out = (_both(model, bench, role, number) for role in ("real", "validation"))
        found = ddo_round(model, train, held_out, bench.settings.game.prompt_length)
        rounds.append({**asdict(found.interval), "cross_entropy": found.cross_entropy})
        if not found.signal:
            break
        rounds[-1]["selection"] = accuracy = _selection(model, bench)
        if accuracy < least:
            kept, least, best = number, accuracy, model.tilt.detach().clone()
    with torch.no_grad():
        model.tilt.copy_(best)
    return {"tilt": best.tolist(), "rounds": rounds, "kept": kept}


def _both(model: Tilted, bench: Bench, role: Role, number: int) -> Texts:
    """Real text, the same in every round, and what the model writes after the same prompts, with other seeds."""
    real_NT = _real(bench, role)
    return Texts(real_NT, bench.world.continued(real_NT, "tilt", role, str(number), model=model))


def _real(bench: Bench, role: Role) -> Tensor:
    params = bench.settings.tilt
    n = params.held_out if role == "validation" else params.texts
    return bench.world.sequences(role, n, "tilt", role, n_new=params.n_new)


def _selection(model: Tilted, bench: Bench) -> float:
    return bench.selection(Writer(model, bench.world.discriminator, 1, 1.0, 1))
