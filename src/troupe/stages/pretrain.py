"""Stage pretrain: tokens -> artifacts/pretrain, a dense GPT-2 trained on the text.

It starts from random weights, or from those that `pretrain.init_from` names and artifacts/init.json holds to account.
"""

from typing import Any

from troupe.bundles.bundle import TOKENIZER
from troupe.bundles.initial import SCRATCH, find_initial, load_initial, require_agreement
from troupe.compute import set_up
from troupe.data.dataset import TokenDataset
from troupe.data.room import check_tokens
from troupe.errors import ArtifactError
from troupe.files import read_json
from troupe.layout import INITIAL
from troupe.models.config import GPTConfig
from troupe.models.gpt2 import GPT, init_gpt2
from troupe.params import Params
from troupe.seeding import generator
from troupe.stages.common import stage_main
from troupe.stages.fit import Trainee, finished, fit
from troupe.training.launch import side_by_side
from troupe.training.probe import choose


def pretrain(params: Params) -> None:
    """Train a GPT-2 on the training split."""
    data = TokenDataset.open()
    check_tokens(params, data)
    device, scratch = set_up(params.run), params.pretrain.init_from == SCRATCH
    model, origin = (random_gpt2(data.vocab_size, params), {}) if scratch else given_gpt2(data, params)
    choice = choose(params.run, model.to(device), params.pretrain)
    fit(Trainee("pretrain", model), data, params, choice, [INITIAL], origin)
    finished("pretrain")


def random_gpt2(vocab_size: int, params: Params) -> GPT:
    """A GPT-2 of the dimensions in params.yaml, initialised from the seed."""
    model = GPT(GPTConfig(vocab_size, **params.model.model_dump()))
    init_gpt2(model, generator(params.run.seed, "pretrain", "init"))
    return model


def given_gpt2(data: TokenDataset, params: Params) -> tuple[GPT, dict[str, Any]]:
    """The GPT-2 that `pretrain.init_from` names, and what its offspring's provenance says of it.

    Raises ArtifactError if it has changed since stage `inputs`, or does not know the tokens; ParamsError for other
    dimensions.
    """
    seen, initial = read_json(INITIAL), find_initial(params.pretrain.init_from)
    if not initial.identity().items() <= seen.items():
        raise ArtifactError(f"pretrain.init_from {initial.name}: not what {INITIAL} recorded; run stage inputs again")
    require_agreement(initial, params)
    model = load_initial(initial, data.folder / TOKENIZER, params.model.block_size, params.model.dropout)
    return model, {"initial": seen | {"revision": initial.revision}}


if __name__ == "__main__":
    stage_main("pretrain", side_by_side(pretrain))
