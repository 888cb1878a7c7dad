"""What `auto` in section `run` comes to: the faster precision, the compiler where it pays, once per machine."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from troupe.errors import ArtifactError
from troupe.models.config import GPTConfig
from troupe.models.gpt2 import GPT, init_gpt2
from troupe.params import RunParams, TrainParams, load_params
from troupe.seeding import generator
from troupe.training import probe
from troupe.training.probe import COMPILING_SAVES, COMPILING_TAKES, Probe, choose, eager, kept_probe, measure

ROOT = Path(__file__).parents[2]
PARAMS = load_params(ROOT / "params.yaml", ["run.device=cpu"])


@pytest.fixture
def model() -> GPT:
    model = GPT(GPTConfig(50, 16, n_layer=1, n_head=2, n_embd=16, dropout=0.1))
    init_gpt2(model, generator(0, "test"))
    return model


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TROUPE_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "cache" / "probes.json"


def run(**values: object) -> RunParams:
    return RunParams.model_validate({**PARAMS.run.model_dump(), **values})


def training(steps: int) -> TrainParams:
    return PARAMS.pretrain.model_copy(update={"steps": steps, "batch_size": 4})  # 64 tokens


def found(float32: float, bfloat16: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if a token took so many milliseconds."""
    monkeypatch.setattr(probe, "measure", lambda model, rows, width: Probe(float32 / 1000, bfloat16 / 1000))


@pytest.mark.parametrize(
    ("float32", "bfloat16", "precision"), [(1.0, 0.4, "bfloat16"), (1.0, 0.95, "float32"), (0.4, 1.0, "float32")]
)
def test_auto_takes_bfloat16_where_it_saves_a_tenth(
    float32: float, bfloat16: float, precision: str, model: GPT, monkeypatch: pytest.MonkeyPatch
) -> None:
    found(float32, bfloat16, monkeypatch)
    assert choose(run(compile="never"), model, training(10)).how.precision == precision


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_what_is_named_is_taken_without_a_probe(precision: str, model: GPT, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(probe, "measure")
    choice = choose(run(precision=precision, compile="never", threads=3), model, training(10**6))
    assert (choice.how.precision, choice.how.compiled, choice.how.threads) == (precision, False, 3)
    assert choice.probe is choice.seconds() is None
    assert choose(run(precision=precision, compile="always"), model, training(1)).how.compiled


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_auto_compiles_where_it_saves_more_time_than_it_takes(
    precision: str, model: GPT, monkeypatch: pytest.MonkeyPatch
) -> None:
    found(1000 / 64, 1000 / 64, monkeypatch)  # a second a step
    monkeypatch.setattr(probe, "can_compile", lambda device: True)
    even = round(COMPILING_TAKES / COMPILING_SAVES[precision])  # type: ignore[index]
    shorter, longer = (choose(run(precision=precision), model, training(steps)) for steps in (even - 1, even + 1))
    assert (shorter.how.compiled, longer.how.compiled) == (False, True)
    assert shorter.seconds() == pytest.approx(even - 1)
    assert longer.seconds() == pytest.approx(even + 1, abs=1)  # what is saved is what it takes


def test_where_torch_cannot_compile_auto_does_not(model: GPT, monkeypatch: pytest.MonkeyPatch) -> None:
    found(1.0, 1.0, monkeypatch)
    monkeypatch.setattr(probe, "can_compile", lambda device: False)
    assert not choose(run(), model, training(10**6)).how.compiled


def test_short_trainings_do_not_even_try_to_compile(model: GPT, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch, "compile")
    assert not choose(run(), model, training(1)).how.compiled


def test_a_probe_leaves_model_and_random_numbers_as_they_were(model: GPT) -> None:
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state, training_mode = torch.get_rng_state(), model.eval().training
    seen = measure(model, rows=4, width=16)
    assert seen.float32 > 0
    assert seen.bfloat16 > 0
    assert model.training == training_mode
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(weight.grad is None for weight in model.parameters())


def test_the_first_probe_of_a_shape_decides_for_good(model: GPT, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found(1.0, 0.5, monkeypatch)
    first = kept_probe(model, 4, threads=1)
    found(0.5, 1.0, monkeypatch)
    assert kept_probe(model, 4, threads=1) == first
    assert kept_probe(model, 8, threads=1).best() == "float32"
    assert kept_probe(model, 4, threads=2).best() == "float32"
    wider = GPT(replace(model.config, n_embd=32))
    assert kept_probe(wider, 4, threads=1).best() == "float32"
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "another")  # units of the processor are hidden: another machine
    assert kept_probe(model, 4, threads=1).best() == "float32"
    assert len(json.loads(cache.read_text())) == 5


def test_batches_of_which_the_same_part_is_timed_share_a_probe(model: GPT, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "WORK", 0)
    found(1.0, 0.5, monkeypatch)
    first = kept_probe(model, 4, threads=1)
    monkeypatch.delattr(probe, "measure")
    assert kept_probe(model, 32, threads=1) == first


def test_a_precision_that_is_emulated_is_not_timed_on_many_tokens(model: GPT, monkeypatch: pytest.MonkeyPatch) -> None:
    timed: list[tuple[str, int]] = []

    def seconds(model: GPT, x_BT: torch.Tensor, precision: str) -> float:
        timed.append((precision, x_BT.numel()))
        return x_BT.numel() * (20.0 if precision == "bfloat16" else 1.0)

    monkeypatch.setattr(probe, "_seconds", seconds)
    assert measure(model, rows=40, width=16) == Probe(1.0, 20.0)
    assert max(tokens for precision, tokens in timed if precision == "bfloat16") == 16
    assert ("float32", 640) in timed


@pytest.mark.parametrize("content", ["", "[]", "{", '{"a": 1}', '{"a": {"float32": -1.0, "bfloat16": 1.0}}'])
def test_a_damaged_file_of_probes_is_written_anew(
    content: str, model: GPT, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.parent.mkdir()
    cache.write_text(content)
    found(1.0, 0.5, monkeypatch)
    assert kept_probe(model, 4, threads=1) == Probe(0.001, 0.0005)
    assert list(json.loads(cache.read_text()).values()) == [{"float32": 0.001, "bfloat16": 0.0005}]


def test_where_the_users_folder_cannot_be_made_the_workspace_keeps_probes(
    model: GPT, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("TROUPE_CACHE", str(tmp_path / "file" / "below"))
    found(1.0, 0.5, monkeypatch)
    kept_probe(model, 4, threads=1)
    assert (tmp_path / ".troupe" / "probes.json").exists()


def test_a_full_disk_stops_no_training(model: GPT, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, content: object) -> None:
        raise ArtifactError(f"{path}: not written: No space left on device")

    monkeypatch.setattr(probe, "write_json", full)
    found(1.0, 0.5, monkeypatch)
    assert kept_probe(model, 4, threads=1) == Probe(0.001, 0.0005)


def test_processes_probe_their_share_of_a_batch(model: GPT, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(probe, "measure", lambda model, rows, width: asked.append((rows, width)) or Probe(1.0, 1.0))
    eager(run(processes=2), model, batch_size=8)
    assert asked == [(4, 16)]


def test_a_line_says_what_was_decided_and_why(model: GPT, monkeypatch: pytest.MonkeyPatch) -> None:
    found(500 / 64, 250 / 64, monkeypatch)
    choice = choose(run(compile="never", threads=2), model, training(400))
    assert choice.line() == (
        "2 threads, bfloat16 (2.0 times as fast as float32 here), not compiled; passes of 400 steps: 1:40 at least"
    )
    assert choice.line(done=200).endswith("; passes of 200 steps: 0:50 at least")
    assert replace(choice, work=2.0).line().endswith("; passes of 400 steps: 3:20 at least")
    named = choose(run(precision="float32", threads=2), model, training(4))
    assert named.line() == "2 threads, float32, not compiled; passes of 4 steps: 0:02 at least"
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "another")
    found(500 / 64, 480 / 64, monkeypatch)
    slow = choose(run(compile="never", threads=1), model, training(401))
    assert slow.line() == (
        "1 thread, float32 (bfloat16 saves less than a tenth here), not compiled; passes of 401 steps: 3:20 at least"
    )
