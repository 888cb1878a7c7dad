"""Stage moe: tokens, artifacts/pretrain -> artifacts/moe, the dense model grown into attention experts and trained on.

With `moe.control`, artifacts/moe/control is the dense model trained on instead: same steps, batches, optimiser and
rates. What experts are worth is the difference between the two.
"""

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from troupe.bundles.bundle import CONFIG, WEIGHTS, load_dense
from troupe.compute import Autocast, set_up
from troupe.conversion.attention import convert, experts_wanted
from troupe.conversion.distillation import distil
from troupe.data.batches import Batches
from troupe.data.dataset import Ids, TokenDataset
from troupe.data.room import check_tokens
from troupe.errors import ParamsError
from troupe.files import read_json, write_json
from troupe.layout import USAGE, model_dir
from troupe.models.gpt2 import GPT, evaluating
from troupe.models.switchhead import ExpertUsage, balance_loss, expert_usage, keep_balance
from troupe.params import Params, grouped_fault
from troupe.progress import track
from troupe.seeding import derive_seed, generator
from troupe.stages.common import stage_main
from troupe.stages.fit import Trainee, finished, fit
from troupe.training.launch import side_by_side
from troupe.training.loop import Penalty, RunContext, StepFigures, validate
from troupe.training.parallel import leads, team_of
from troupe.training.probe import Choice, choose
from troupe.training.stops import signals_noted

EXPERTS_WORK = 1.4  # times the time of a dense step, roughly, whatever the number of experts
WATCHED = 32  # windows of validation text on which the routers are watched


def moe(params: Params) -> None:
    """Grow the pretrained model into attention experts and train it on; the dense model too, as a control.

    Raises as `fit` does; ParamsError for `moe.compute: grouped` where it cannot be; and Diverged and Interrupted of the
    distillation, which begins anew at the next start.
    """
    data = TokenDataset.open()
    check_tokens(params, data)
    device, folder, parent = set_up(params.run), model_dir("moe"), model_dir("pretrain")
    dense = load_dense(parent, device).model
    choice = _choose(params, dense)
    experts, of_switch = _switch(dense, data, params, choice.how.autocast)
    train_on = partial(fit, data=data, params=params, inputs=[parent / WEIGHTS, parent / CONFIG])
    windows_BT = _validation_windows(data.ids("validation"), dense.config.block_size).to(device)
    watch, penalty = partial(_figures, ids_BT=windows_BT), _penalty(experts, params.moe.balance_weight)
    facts = train_on(Trainee("moe", experts, watch, penalty), choice=replace(choice, work=EXPERTS_WORK))
    if params.moe.control:
        control = train_on(Trainee("moe-control", dense), choice=choice)
        facts |= {f"control/{name}": value for name, value in control.items()}
    if leads():
        write_json(USAGE, {"load": _usage(experts, windows_BT).load.tolist()})
        write_json(folder / "summary.json", facts | of_switch)
    finished("moe", "moe-control")


def _choose(params: Params, dense: GPT) -> Choice:
    """How both models are trained, so that they differ in their experts alone.

    Raises ParamsError if this machine cannot compute these experts as `moe.compute` names it.
    """
    choice, experts = choose(params.run, dense, params.moe), experts_wanted(params.moe, dense.config)
    if experts.compute != "grouped":
        return choice
    how = choice.how
    if params.run.compile == "auto" and how.precision == "float32":
        how = replace(how, compiled=False)  # torch cannot compile them
    if fault := grouped_fault(dense.config.n_embd, experts.head_width, how.precision, how.compiled):
        raise ParamsError(fault)
    return replace(choice, how=how)


def _switch(dense: GPT, data: TokenDataset, params: Params, precision: Autocast) -> tuple[GPT, StepFigures]:
    """The model with experts as it is before it is trained on, and figures: {"switch/bpb_before", "switch/bpb_after":
    bits per byte of validation text, of the dense model and of this one; "distil/error": what the distillation
    leaves, mean over layers}.
    """
    model = convert(
        dense,
        experts_wanted(params.moe, dense.config),
        params.moe.conversion,
        generator(params.run.seed, "moe", "routers"),
    )
    figures = _distil(dense, model, data, params, precision) if params.moe.conversion == "distilled" else {}
    if leads():
        before = read_json(model_dir("pretrain") / "summary.json")["best/val/bpb"]  # measured there, of these weights
        after = validate(model, data.ids("validation"), data.n_bytes["validation"], precision)["val/bpb"]
        print(
            f"{'moe':<12} switched to experts: {before:.4f} -> {after:.4f} bits per byte of validation text", flush=True
        )
        figures |= {"switch/bpb_before": before, "switch/bpb_after": after}
    return model, figures


def _distil(dense: GPT, model: GPT, data: TokenDataset, params: Params, precision: Autocast) -> StepFigures:
    team = team_of(params.run, next(model.parameters()).device)
    seed = derive_seed(params.run.seed, "moe", "distillation")
    how = params.moe.distilling()
    batches = Batches(data.shards("train"), model.config.block_size, how.batch_size, seed)
    progress = track("moe-distil", how.steps) if team.leads else nullcontext(_unseen)
    with progress as show, signals_noted() as interrupted:
        errors = distil(dense, model, batches, how, RunContext(precision, False, team, show, interrupted=interrupted))
    return {"distil/error": sum(errors) / len(errors)}


def _unseen(step: int, figures: Mapping[str, float]) -> None:
    """The progress of a process that does not lead."""


def _penalty(model: GPT, weight: float) -> Penalty | None:
    if not weight:
        return None
    keep_balance(model)
    return lambda: weight * balance_loss(model)


def _figures(model: GPT, ids_BT: Tensor) -> StepFigures:
    """{"moe/effective_experts": exp(entropy of a router's choices), mean over routers, from 1 to n_expert (even);
    "moe/dead_experts": how many experts no token chose; "experts/layer0/values/head0", ...: the effective ones of
    every router}, on `ids_BT`."""
    usage = _usage(model, ids_BT)
    of_each = {
        f"experts/layer{layer}/{routes}/head{head}": count
        for layer, routers in enumerate(usage.effective_LRH.tolist())
        for routes, heads in zip(("values", "outputs"), routers, strict=True)
        for head, count in enumerate(heads)
    }
    mean = usage.effective_LRH.mean().item()
    return {"moe/effective_experts": mean, "moe/dead_experts": usage.dead, **of_each}


def _usage(model: GPT, ids_BT: Tensor) -> ExpertUsage:
    with evaluating(model):  # dropout would spend random numbers that the control does not
        return expert_usage(model, ids_BT)


def _validation_windows(ids: Ids, block_size: int) -> Tensor:
    width = min(block_size, len(ids))
    count = min(WATCHED, len(ids) // width)
    return torch.from_numpy(ids[: count * width].astype("int64")).view(count, width)


if __name__ == "__main__":
    stage_main("moe", side_by_side(moe))
