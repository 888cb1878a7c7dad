"""What the benchmarks count and how they compare, by hand."""

import subprocess
import sys
from argparse import Namespace

import numpy as np
import pytest
import torch

from benchmarks import common
from benchmarks.common import comparison, interleaved
from benchmarks.fit import Log, nanogpt_split
from benchmarks.gemm import BenchShape, peak_flops
from benchmarks.nanogpt_copy import Finished
from troupe.models.config import GPTConfig
from troupe.models.gpt2 import GPT
from troupe.training.loop import cross_entropy, validate


def test_contestants_take_turns() -> None:
    turns: list[str] = []
    args = Namespace(rounds=2, busy=[])

    def contestant(name: str) -> float:
        turns.append(name)
        return float(len(turns))

    figures = interleaved({"a": lambda: contestant("a"), "b": lambda: contestant("b")}, args)
    assert turns == ["a", "b", "a", "b"]
    assert figures == {"a": [1.0, 3.0], "b": [2.0, 4.0]}
    assert len(args.busy) == 2


def test_ratios_are_taken_within_a_round() -> None:
    """b is twice a in every round, though the machine was ten times slower in the last."""
    lines = comparison("Title", {"a": [10.0, 11.0, 1.0], "b": [20.0, 22.0, 2.0]}, "tokens/s", bases=["a"]).splitlines()
    assert lines[0] == "### Title"
    assert lines[-2:] == [
        "| a | 10 | 1..11 | 1.00 (1.00..1.00) |",
        "| b | 20 | 2..22 | 2.00 (2.00..2.00) |",
    ]


def test_the_split_is_nanogpts() -> None:
    """int(0.9 * 25) characters train; ids by code point over the whole text, as its prepare.py has them."""
    text = "to be or not to be, that z"[:25]
    train_ids, validation_ids, vocab_size = nanogpt_split(text)
    characters = sorted(set(text))
    assert vocab_size == len(characters)
    assert train_ids.tolist() == [characters.index(one) for one in text[:22]]
    assert validation_ids.tolist() == [characters.index(one) for one in text[22:]]


def test_a_loss_leaves_out_the_first_token() -> None:
    """Against the mean over all predictions of windows side by side, T = 8, the last one shorter."""
    torch.manual_seed(0)
    model = GPT(GPTConfig(vocab_size=11, block_size=8, n_layer=1, n_head=1, n_embd=8, dropout=0.0))
    ids = np.arange(30, dtype=np.uint16) % 11
    nats = 0.0
    for start in range(0, 29, 8):
        window = torch.from_numpy(ids[start : min(start + 9, 30)].astype(np.int64))[None]
        nats += cross_entropy(model, window[:, :-1], window[:, 1:], torch.inference_mode, "sum").item()
    seen = validate(model, ids, 30, torch.inference_mode)
    assert Log(30, 11, 0.0).per_prediction(seen["val/loss"]) == pytest.approx(nats / 29, rel=1e-6)


def test_useful_operations_of_a_token() -> None:
    """L 2, D 4, T 8, V 65: 2 x 12 x 16 + 4 x 65 = 644 weights, 4.5 tokens seen x 2 L D = 72; 6 (644 + 72) = 4296."""
    assert BenchShape(2, 2, 4, 8, 1, 0.0).flops_per_token() == 4296


def test_weights_that_are_counted_are_those_of_the_model() -> None:
    """All parameters with two axes but the position embedding; the token embedding is the head."""
    shape = BenchShape(2, 2, 16, 8, 1, 0.0)
    model = GPT(GPTConfig(65, shape.block_size, shape.n_layer, shape.n_head, shape.n_embd, shape.dropout))
    weights = sum(p.numel() for name, p in model.named_parameters() if p.dim() == 2 and "position" not in name)
    assert weights == sum(count * n_in * n_out for count, n_in, n_out in shape.linear_layers())


def test_the_peak_is_positive_and_finite() -> None:
    assert 0 < peak_flops(BenchShape(1, 1, 8, 4, 2, 0.0), torch.float32, repeats=1) < float("inf")


def test_step_times_of_nanogpt_are_read_without_the_first() -> None:
    output = "step 0: train loss 4.2, val loss 4.2\niter 0: loss 4.2, time 900.00ms, mfu -100.00%\n"
    output += "iter 1: loss 4.1, time 20.00ms, mfu -100.00%\niter 2: loss 4.1, time 40.00ms, mfu 1.00%\n"
    assert Finished(output, 1.0).tokens_per_second(100) == [5000.0, 2500.0]
    assert Finished(output, 1.0).looks() == [(0, 4.2)]


@pytest.mark.parametrize(("typed", "rounds"), [([], 3), (["--rounds", "5"], 5), (["--quick"], 1)])
def test_as_many_rounds_as_a_benchmark_asks_for_unless_told_otherwise(
    typed: list[str], rounds: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["any", *typed, "--threads", "1"])
    monkeypatch.setattr(common.stopping, "as_usual", lambda name: None)
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS"):
        monkeypatch.setenv(name, "1")
    monkeypatch.delenv("NANOGPT", raising=False)
    assert common.start("any", "Any", rounds=3).rounds == rounds


def test_work_of_a_process_that_goes_on_counts_as_ours() -> None:
    """Servers do while they are measured: else others seem to be at work."""
    before = common._work_of_ours()
    busy = "import time; began = time.process_time()\nwhile time.process_time() < began + 0.3: pass\nprint(); input()"
    with subprocess.Popen(
        [sys.executable, "-c", busy], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout
        child.stdout.readline()
        while_it_lives = common._work_of_ours() - before
        child.communicate("\n")
    assert while_it_lives >= 0.29  # the clock of /proc ticks every hundredth of a second
