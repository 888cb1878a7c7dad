"""The first job of a seed: the network, trained by the pipeline's recipe on the training text alone."""

from contextlib import nullcontext
from functools import partial
from pathlib import Path
from time import process_time

import safetensors.torch
import torch

from studies.core.jobs import Figures, Job
from studies.core.text import load_text
from troupe.data.batches import Batches
from troupe.files import write_atomic
from troupe.models.config import GPTConfig
from troupe.models.gpt2 import GPT, init_gpt2
from troupe.params import TrainParams
from troupe.seeding import derive_seed, generator
from troupe.training.loop import RunContext, train, validate

WEIGHTS = "network.safetensors"


def train_network(job: Job, folder: Path, needed: Path | None) -> Figures:
    """The body of a job: leaves the weights of the best look at validation text in `folder`."""
    text, recipe = load_text(folder.parent / job.settings["text"]), TrainParams.model_validate(job.settings["train"])
    torch.set_flush_denormal(True)
    model = GPT(GPTConfig(text.vocab_size, **job.settings["model"]))
    init_gpt2(model, generator(job.seed, "study", "init"))
    torch.manual_seed(derive_seed(job.seed, "study", "dropout"))
    batches = Batches(
        text.ids["train"], model.config.block_size, recipe.batch_size, derive_seed(job.seed, "study", "batches")
    )
    look = partial(validate, model, text.ids["validation"], text.n_bytes["validation"], nullcontext)
    began = process_time()
    train(model, batches, look, recipe, RunContext())
    write_atomic(folder / WEIGHTS, safetensors.torch.save(model.state_dict()))
    return {"seconds": process_time() - began, "parameters": sum(one.numel() for one in model.parameters())}
