"""Stage pretrain: tokens -> artifacts/pretrain, a dense GPT-2 trained on the text."""

from troupe.compute import set_up
from troupe.files import read_json
from troupe.layout import TOKENS, model_dir
from troupe.models.gpt2 import GPT, GPTConfig, init_gpt2
from troupe.params import Params
from troupe.seeding import generator
from troupe.stages.common import stage_main
from troupe.stages.fit import fit, forget


def pretrain(params: Params) -> None:
    """Train a GPT-2 from scratch on the training split."""
    device = set_up(params.run)
    model = GPT(GPTConfig(read_json(TOKENS / "meta.json")["vocab_size"], **params.model.model_dump()))
    init_gpt2(model, generator(params.run.seed, "pretrain", "init"))
    sections = {"run": params.run, "model": params.model, "pretrain": params.pretrain}
    fit("pretrain", model.to(device), params.pretrain, params.run, model_dir("pretrain"), sections)
    forget("pretrain")


if __name__ == "__main__":
    stage_main("pretrain", pretrain)
