"""One job of the study of architectures: one of them with one seed, trained on its own objective and measured.

Shapes: B windows, T tokens, L of a span.
"""

import math
import time
from pathlib import Path
from statistics import mean, median

import torch
from torch import Tensor

from studies.architectures.anatomy import dependence, parameters_by_part, relative_buckets, writing_costs
from studies.architectures.families import BERT, FAMILIES, GPT2, T5, Family
from studies.architectures.settings import Common
from studies.architectures.spans import Words, spans_of
from studies.core.jobs import Figures, Job
from studies.core.text import Text, load_text
from troupe.data.batches import Batches
from troupe.data.tokenizer import FILE, load_tokenizer
from troupe.seeding import derive_seed, generator

SEEN = 12  # tokens of the sentence whose dependences are drawn
BATCH = 32  # windows that are measured at a time
POINTS = 40  # of a curve of training loss


def run_family(job: Job, folder: Path, needed: Path | None) -> Figures:
    """The body of a job."""
    common = Common.model_validate(job.settings["common"])
    where = folder.parent / job.settings["text"]
    text = load_text(where)
    torch.set_flush_denormal(True)
    torch.manual_seed(derive_seed(job.seed, "study", "weights"))
    family = FAMILIES[job.arm](Words(text.vocab_size), common)
    losses, seconds = train(family, text, common, job.seed)
    family.model.eval()
    tokenizer = load_tokenizer(where / FILE)
    sentence_T = torch.from_numpy(text.ids["test"][:SEEN].astype("int64"))
    with torch.no_grad():
        return {
            "parameters": sum(parameter.numel() for parameter in family.model.parameters()),
            "parts": parameters_by_part(family.model),
            "structure": str(family.model),
            "loss": losses,
            "seconds_per_step": seconds,
            "tasks": measure(family, text, common, job.seed),
            "sentence": [tokenizer.decode([number]) for number in sentence_T.tolist()],
            "dependence": dependence(family, sentence_T),
            "buckets": relative_buckets(family, SEEN) if isinstance(family, T5) else None,
            "writing": writing_costs(family, sentence_T[: common.lengths[0]], common.lengths),
        }


def train(family: Family, text: Text, common: Common, seed: int) -> tuple[list[list[float]], float]:
    """[[step, mean loss]] of training, in nats per predicted token, and the seconds of the median step."""
    settings, T = common.training, common.shape.context
    batches = Batches(text.ids["train"], T, settings.batch_size, derive_seed(seed, "study", "batches"))
    rng = generator(seed, "study", "objective")
    optimizer = torch.optim.AdamW(
        family.model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
    )
    rate = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: factor(step, settings.steps))
    family.model.train()
    losses, seconds = [], []
    for step in range(settings.steps):
        began = time.perf_counter()
        loss = family.loss(batches.batches(step)[0], rng)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(family.model.parameters(), 1.0)
        optimizer.step()
        rate.step()
        optimizer.zero_grad()
        seconds.append(time.perf_counter() - began)
        losses.append(loss.item())
    every = max(1, len(losses) // POINTS)
    ends = range(every, len(losses) + 1, every)
    return [[end, mean(losses[end - every : end])] for end in ends], median(seconds)


def factor(step: int, steps: int) -> float:
    """Of the learning rate: up over the first tenth, then down to zero."""
    rise = max(1, steps // 10)
    return min((step + 1) / rise, (steps - step) / max(1, steps - rise))


def measure(family: Family, text: Text, common: Common, seed: int) -> Figures:
    """Every task, on the same windows of test text and with the same gaps for all families; None where a task is not
    defined.

    Accuracies are shares of words; `bits` are per byte, at the mean bytes per token of the text.
    """
    T, L = common.shape.context, common.span_length
    ids = torch.from_numpy(text.ids["test"].astype("int64"))
    windows_BT = ids[: min(common.held_out, len(ids) // T) * T].view(-1, T)
    bits = len(text.ids["test"]) / text.n_bytes["test"] / math.log(2)  # per byte, of a nat per token
    rng = generator(seed, "study", "gaps")
    place_B = torch.randint(1, T - L, (len(windows_BT),), generator=rng)
    few = slice(0, common.ranked)
    right = {
        "span": _share(windows_BT, place_B, L, family),
        "blank": accuracy(
            family.fill(windows_BT[few], place_B[few]), windows_BT[few].gather(1, place_B[few, None])[:, 0]
        ),
    }
    nats = [family.continuation(part, T // 2) for part in torch.split(windows_BT, BATCH)]
    known = [one for one in nats if one is not None]
    return {
        **right,
        "blank_from_left": _share(windows_BT[few], place_B[few], 1, family) if isinstance(family, GPT2) else None,
        "continuation": bits * float(torch.cat(known).mean()) / (T - T // 2) if known else None,
        "pseudo": bits * float(family.pseudo_nats(windows_BT[few]).mean()) / T if isinstance(family, BERT) else None,
        "windows": len(windows_BT),
    }


def _share(windows_BT: Tensor, place_B: Tensor, L: int, family: Family) -> float:
    """Of the words of a gap that are right."""
    parts = zip(torch.split(windows_BT, BATCH), torch.split(place_B, BATCH), strict=True)
    filled = torch.cat([family.fill_span(ids_BT, start_B, L) for ids_BT, start_B in parts])
    return accuracy(filled, spans_of(windows_BT, place_B[:, None], L)[:, 0])


def accuracy(found: Tensor, true: Tensor) -> float:
    return float((found == true).float().mean())
