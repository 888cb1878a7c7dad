"""Stage moe: tokens, artifacts/pretrain -> artifacts/moe, the dense model grown into attention experts and trained on.

With `moe.control`, artifacts/moe/control is the dense model trained on instead: same steps, batches, optimiser and
rates. What experts are worth is the difference between the two.
"""

from functools import partial

import torch
from torch import Tensor

from troupe.compute import set_up
from troupe.data.batches import load_ids
from troupe.decoding import evaluating
from troupe.files import write_json
from troupe.layout import TOKENS, model_dir
from troupe.models.bundle import CONFIG, WEIGHTS, load_bundle
from troupe.models.gpt2 import GPT
from troupe.models.switchhead import SwitchHeadConfig, expert_usage, upcycle
from troupe.params import Params
from troupe.seeding import generator
from troupe.stages.common import stage_main
from troupe.stages.fit import finished, fit
from troupe.training.launch import side_by_side
from troupe.training.loop import Figures
from troupe.training.parallel import leads

WATCHED = 32  # windows of validation text on which the routers are watched


def moe(params: Params) -> None:
    """Grow the pretrained model into attention experts and train it on; the dense model too, as a control."""
    device, folder, parent = set_up(params.run), model_dir("moe"), model_dir("pretrain")
    dense = load_bundle(parent, device).model
    config = SwitchHeadConfig(
        n_head=dense.config.n_head,
        head_width=dense.config.n_embd // dense.config.n_head,
        n_expert=params.moe.n_expert,
        top_k=params.moe.top_k,
        router=params.moe.router,
    )
    experts = upcycle(dense, config, generator(params.run.seed, "moe", "routers"))
    train_on = partial(
        fit,
        params=params.moe,
        run=params.run,
        sections={"run": params.run, "moe": params.moe},
        inputs=[parent / WEIGHTS, parent / CONFIG],
    )
    watch = partial(_usage, ids_BT=_validation_windows(dense.config.block_size).to(device))
    facts = train_on("moe", experts, folder=folder, watch=watch)
    if params.moe.control:
        control = train_on("moe-control", dense, folder=folder / "control")
        if leads():
            write_json(folder / "summary.json", facts | {f"control/{name}": value for name, value in control.items()})
    finished("moe", "moe-control")


def _usage(model: GPT, ids_BT: Tensor) -> Figures:
    """{"moe/effective_experts": exp(entropy of a router's choices), mean over routers, from 1 to n_expert (even);
    "moe/dead_experts": how many experts no token chose}, on `ids_BT`."""
    with evaluating(model):  # dropout would spend random numbers that the control does not
        usage = expert_usage(model, ids_BT)
    return {"moe/effective_experts": usage.effective_LRH.mean().item(), "moe/dead_experts": usage.dead}


def _validation_windows(block_size: int) -> Tensor:
    ids = torch.from_numpy(load_ids(TOKENS, "validation").astype("int64"))
    whole = ids[: len(ids) // block_size * block_size] if len(ids) >= block_size else ids
    return whole.view(-1, min(block_size, len(ids)))[:WATCHED]


if __name__ == "__main__":
    stage_main("moe", side_by_side(moe))
