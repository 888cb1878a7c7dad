"""One arm of the study of attention experts with one seed: a model, its training, and what is measured of it.

Axes: B sequences, T tokens, D model width, M heads, E experts per head, K head width.
"""

from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import partial
from itertools import combinations
from pathlib import Path
from statistics import mean, median
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from studies.core.jobs import Figures, Job
from studies.core.text import Text, load_text
from studies.moe.costs import distilling_steps, rest
from studies.moe.settings import Arm, Common
from troupe.compute import Arithmetic, set_up
from troupe.conversion.attention import convert
from troupe.conversion.distillation import distil
from troupe.data.batches import Batches
from troupe.evaluation.comparison import bits_per_byte, nats
from troupe.files import write_atomic
from troupe.inspection.attention import attention_costs
from troupe.models.config import GPTConfig
from troupe.models.gpt2 import GPT, evaluating, init_gpt2
from troupe.models.switchhead import (
    SwitchHead,
    balance_loss,
    expert_usage,
    init_switchhead,
    keep_balance,
    switchhead_layers,
)
from troupe.params import RunParams, TrainParams
from troupe.seeding import derive_seed, generator
from troupe.training.loop import RunContext, train, validate

WEIGHTS = "model.safetensors"
DENSE = Arm(start="random")  # what the first phase makes for arms with start: pretrained
PRETRAIN, DISTIL, CONTINUED = "pretrain", "distil", "continued"  # the phases; the second, of some conversions only


def run_arm(job: Job, folder: Path, needed: Path | None) -> Figures:
    """The body of a job: the first phase of an arm, which leaves weights, or all that follows on such weights."""
    arm = Arm.model_validate(job.settings["arm"])
    phases = {name: TrainParams.model_validate(values) for name, values in job.settings["phases"].items()}
    text = load_text(folder.parent / job.settings["text"])
    experiment = Experiment(Common.model_validate(job.settings["common"]), text, job.seed)
    if needed is None:
        model = experiment.build(arm)
        first = experiment.train(model, PRETRAIN, phases[PRETRAIN], arm)
        write_atomic(folder / WEIGHTS, safetensors.torch.save(model.state_dict()))
        return {PRETRAIN: first}
    model = experiment.build(DENSE if arm.start == "pretrained" else arm)
    model.load_state_dict(safetensors.torch.load_file(needed / WEIGHTS))
    return experiment.go_on(model, arm, phases)


class Experiment:
    """What all arms of one seed have in common: settings, text, and the seed itself."""

    def __init__(self, common: Common, text: Text, seed: int) -> None:
        self.looks, self.text, self.seed = common.looks, text, seed
        self.run = RunParams(
            seed=seed, threads=1, processes=1, nodes=1, launcher="local", **common.hardware.model_dump()
        )
        self.device, hardware = set_up(self.run), common.hardware
        how = Arithmetic(self.device.type, hardware.precision, hardware.compile == "always", 1, str(torch.__version__))
        self.precision, self.compiled = how.autocast, how.compiled
        self.config = GPTConfig(text.vocab_size, **common.model.model_dump())

    def build(self, arm: Arm) -> GPT:
        """A model with random weights, which dense models of one shape share within a seed."""
        rng = generator(self.seed, "study", "init")
        if arm.experts:
            experts = arm.switchhead(self.config)
            model = GPT(self.config, attention=partial(SwitchHead, experts=experts))
            init_switchhead(model, rng)
        else:
            n_head = arm.n_head or self.config.n_head
            model = GPT(replace(self.config, n_head=n_head, head_width=arm.head_width))
            init_gpt2(model, rng)
        return model.to(self.device)

    def go_on(self, dense: GPT, arm: Arm, phases: Mapping[str, TrainParams]) -> Figures:
        """The switch to experts, if the arm has one, and the second phase, which is shorter by what the switch cost."""
        before = self.look(dense)
        model = self.converted(dense, arm)
        paid = distilling_steps(dense, model, phases[DISTIL], phases[CONTINUED]) if DISTIL in phases else 0.0
        left = rest(phases[CONTINUED], paid)
        if params := phases.get(DISTIL):
            batches = self._batches(DISTIL, params)
            distil(dense, model, batches, params, RunContext(self.precision))
        after = self.look(model)
        second = self.train(model, CONTINUED, left, arm)
        second["looks"].insert(0, {"step": 0, **after})
        losses = {"before": before["loss"], "after": after["loss"]}
        return {**losses, "conversion_steps": paid, CONTINUED: second, **self.final(model)}

    def converted(self, dense: GPT, arm: Arm) -> GPT:
        """The model to be trained on; one that is to be distilled is untrained yet."""
        if arm.conversion is None:
            return dense
        return convert(dense, arm.switchhead(self.config), arm.conversion, generator(self.seed, "study", "conversion"))

    def train(self, model: GPT, phase: str, params: TrainParams, arm: Arm) -> Figures:
        """{"looks", "tokens_per_second": of the median step}; batches and dropout depend on seed and phase alone."""
        torch.manual_seed(derive_seed(self.seed, "study", phase, "dropout"))
        looks, speeds = [], []

        def log(step: int, figures: Mapping[str, float]) -> None:
            speeds.append(figures["train/tokens_per_second"])
            if self._is_look(step, phase, params.steps):
                looks.append({"step": step, **self.look(model)})

        if weight := arm.experts.balance_weight if arm.experts else 0.0:
            keep_balance(model)
        train(
            model,
            self._batches(phase, params),
            partial(validate, model, self.text.ids["validation"], self.text.n_bytes["validation"], self.precision),
            params,
            RunContext(self.precision, self.compiled, log=log),
            penalty=(lambda: weight * balance_loss(model)) if weight else None,
        )
        return {"looks": looks, "tokens_per_second": median(speeds)}

    def look(self, model: GPT) -> dict[str, float]:
        """{"loss": nats per token of the beginning of validation text, "separation": of the experts, if any}."""
        ids = self.text.ids["validation"][: self.looks.tokens]
        loss = validate(model, ids, self.text.n_bytes["validation"], self.precision)["val/loss"]
        apart = separation(model)
        return {"loss": loss} | ({} if apart is None else {"separation": apart})

    def final(self, model: GPT) -> Figures:
        """Of a trained model: losses of the whole of both held-out texts, costs, and how its experts are used."""
        with evaluating(model):
            losses = {split: self._loss(model, split) for split in ("validation", "test")}
            usage = self._usage(model)
        costs = asdict(attention_costs(model, self.config.block_size))
        parameters = sum(parameter.numel() for parameter in model.parameters())
        return {**losses, "parameters": parameters, "attention": costs, "usage": usage}

    def _batches(self, phase: str, params: TrainParams) -> Batches:
        seed = derive_seed(self.seed, "study", phase, "batches")
        return Batches(self.text.ids["train"], self.config.block_size, params.batch_size, seed)

    def _loss(self, model: GPT, split: Any) -> dict[str, float]:
        ids = self.text.ids[split]
        total = nats(model, ids, stride=max(1, self.config.block_size // 2))
        return {"loss": total / len(ids), "bpb": bits_per_byte(total, self.text.n_bytes[split])}

    def _usage(self, model: GPT) -> Figures | None:
        if not switchhead_layers(model):
            return None
        T, wanted = self.config.block_size, self.looks.watched
        ids = torch.from_numpy(self.text.ids["validation"][: wanted * T].astype("int64"))
        usage = expert_usage(model, ids[: len(ids) // T * T].view(-1, T).to(self.device))
        return {
            "effective": usage.effective_LRH.tolist(),
            "dead": (usage.load == 0).sum(-1).tolist(),
            "experts": usage.load.numel(),
        }

    def _is_look(self, step: int, phase: str, steps: int) -> bool:
        near = phase == CONTINUED and step in self.looks.after_the_switch
        return near or step % self.looks.every == 0 or step == steps


@torch.no_grad()
def separation(model: GPT) -> float | None:
    """Mean distance of two experts of one head, over the mean norm of the head's experts: 0 for copies, about sqrt 2
    for experts that have nothing in common. Over all layers, heads and both projections; None where there are no two.
    """
    heads: list[float] = []
    for layer in switchhead_layers(model):
        M, E = layer.experts.n_head, layer.experts.n_expert
        for rows in (layer.value.weight, layer.output.weight.T):
            heads += [_distance(experts_EX) for experts_EX in rows.reshape(M, E, -1) if E > 1]
    return mean(heads) if heads else None


def _distance(experts_EX: Tensor) -> float:
    pairs: list[float] = [(a - b).norm().item() for a, b in combinations(experts_EX, 2)]
    norm: float = experts_EX.norm(dim=-1).mean().item()
    return mean(pairs) / norm
