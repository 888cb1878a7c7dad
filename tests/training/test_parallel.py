"""Processes that train together do what one would do alone. Real processes, gloo on loopback; B sequences, T tokens."""

import copy
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import torch.distributed as dist

from tests.forked import forked
from tests.numerics import spread
from troupe.conversion.attention import convert
from troupe.data.batches import Batches
from troupe.errors import ArtifactError, Interrupted, ParamsError
from troupe.models.gpt2 import GPT
from troupe.models.switchhead import SwitchHeadConfig
from troupe.params import load_params
from troupe.seeding import generator
from troupe.training.checkpoint import Checkpoints
from troupe.training.loop import RunContext, cross_entropy, train, validate
from troupe.training.parallel import CPU, Team, leads, team_of
from troupe.training.probe import choose

ROOT = Path(__file__).parents[2]
Say = Callable[[dict[str, torch.Tensor]], None]


def together(folder: Path, body: Callable[[Team, Say], None], size: int = 2) -> list[dict[str, torch.Tensor]]:
    """Run `body` in `size` processes that have joined; what each says, by rank."""
    meeting = folder / "meeting"
    meeting.unlink(missing_ok=True)
    says = [folder / f"rank{rank}.safetensors" for rank in range(size)]

    def one(rank: int) -> None:
        dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=size)
        body(Team(rank, size), lambda tensors: safetensors.torch.save_file(tensors, says[rank]))
        dist.destroy_process_group()

    processes = [forked(lambda rank=rank: one(rank)) for rank in range(size)]  # type: ignore[misc]
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * size
    return [safetensors.torch.load_file(path) for path in says]


def run(model: GPT, batches: Batches, params: Any, team: Team | None = None, **more: Any) -> dict[str, torch.Tensor]:
    """The losses of a run, and the weights that it leaves."""
    losses: list[float] = []
    context = RunContext(team=team, log=lambda _, figures: losses.append(figures["train/loss"]), **more)
    train(model, batches, lambda: validate(model, batches.ids, len(batches.ids), nullcontext), params, context)
    return {"losses": torch.tensor(losses), **copy.deepcopy(model.state_dict())}


def test_shares_means_and_gathered_tensors(tmp_path: Path) -> None:
    def body(team: Team, say: Say) -> None:
        rows = team.share(torch.arange(8).view(4, 2))
        gathered = team.gather({"state": torch.full((3,), team.rank, dtype=torch.uint8)})
        means = team.means(torch.tensor(1.0 + team.rank), 10.0 * team.rank, 7)
        mine = torch.tensor([1.0, 2.0]) * (1 + team.rank)
        say(
            {
                "mean": team.mean(mine),
                "mine": mine,
                "rows": rows,
                "means": torch.tensor(means),
                "leads": torch.tensor([team.leads, leads()]),
                **gathered,
            }
        )

    first, second = together(tmp_path, body)
    assert (first["rows"].tolist(), second["rows"].tolist()) == ([[0, 1], [2, 3]], [[4, 5], [6, 7]])
    assert first["means"].tolist() == second["means"].tolist() == [1.5, 5.0, 7.0]
    assert (first["leads"].tolist(), second["leads"].tolist()) == ([True, True], [False, False])
    assert (first["mine"].tolist(), second["mine"].tolist()) == ([1, 2], [2, 4]), "left as they were"
    assert first["mean"].tolist() == second["mean"].tolist() == [1.5, 3.0]
    for said in (first, second):
        assert (said["0.state"].tolist(), said["1.state"].tolist()) == ([0, 0, 0], [1, 1, 1])


def test_alone_a_team_changes_nothing(model: GPT) -> None:
    team, ids_BT = Team(), torch.arange(8).view(4, 2)
    assert team.share(ids_BT).equal(ids_BT)
    assert team.means(torch.tensor(1.5), 2) == [1.5, 2.0]
    assert list(team.gather({"cpu": ids_BT})) == ["0.cpu"]
    team.average_gradients(model)  # without a gradient, and without the others


def test_averaged_gradients_are_those_of_the_whole_batch(tmp_path: Path, model: GPT, batches: Batches) -> None:
    """The mean over a batch is the mean of the means over equal shares, and differentiation is linear."""
    model.double().eval()  # no rounding to speak of, no dropout
    x_BT, y_BT = batches.batches(0)

    def gradients(team: Team) -> dict[str, torch.Tensor]:
        cross_entropy(model, team.share(x_BT), team.share(y_BT), nullcontext).backward()
        team.average_gradients(model)
        return {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}

    first, second = together(tmp_path, lambda team, say: say(gradients(team)))
    whole = gradients(Team())
    assert whole.keys() == first.keys()
    for name in whole:
        assert first[name].equal(second[name])
        torch.testing.assert_close(first[name], whole[name], atol=1e-12, rtol=0)


@pytest.mark.parametrize(
    ("optimizer", "rate", "experts"), [("adamw", 0.02, False), ("adamw", 0.02, True), ("muon", 0.001, False)]
)
def test_two_processes_lose_what_one_loses(
    tmp_path: Path, model: GPT, batches: Batches, train_params: Any, optimizer: str, rate: float, experts: bool
) -> None:
    """50 steps, the same global batches, no dropout: the losses of one process, but for the order of summation.

    Sums in another order differ in the last digit, and training carries that on as it would any other small change:
    AdamW to some 1e-6 here. Muon orthogonalises in bfloat16, which rounds a last digit up to a hundredth: some 1e-4 at
    this rate, and at four times this rate 1e-1. So the tolerance is what other orders of the same sequences come to.
    """
    still = GPT(replace(model.config, dropout=0.0))
    still.load_state_dict(model.state_dict())
    if experts:
        still = convert(still, SwitchHeadConfig(2, 8, 4, 2, "sigmoid"), "exact", generator(0, "routers"))
    params = train_params(
        steps=50, eval_interval=50, optimizer=optimizer, learning_rate=rate, adamw_learning_rate=rate / 5
    )
    both = together(tmp_path, lambda team, say: say(run(still, batches, params, team)))
    assert len(both[0]["losses"]) == 50
    assert len(both[1]["losses"]) == 0, "only rank 0 logs"
    alone_N, within = spread(lambda batches: run(copy.deepcopy(still), batches, params)["losses"], batches)
    assert ((both[0]["losses"] - alone_N).abs() <= within).all()
    assert within < 0.01, "so that halves which were not averaged would show"


def test_resumed_together_they_end_with_the_same_bytes(
    tmp_path: Path, model: GPT, batches: Batches, train_params: Any
) -> None:
    """With dropout, whose draws differ from process to process: a checkpoint holds the random state of each."""
    params = train_params(steps=12, eval_interval=6, checkpoint_interval=5)

    def body(team: Team, say: Say) -> None:
        torch.manual_seed(team.rank)
        fresh, saved = copy.deepcopy(model), Checkpoints(tmp_path / "checkpoints", journal=None)
        straight = run(fresh, batches, params, team, save=saved.save)
        dist.barrier()
        if team.leads:
            (tmp_path / "checkpoints" / "00000012.json").unlink()  # go on from the one of step 10
        dist.barrier()
        torch.manual_seed(99)
        resumed = run(model, batches, params, team, resume=saved.newest())
        say({f"straight.{k}": v for k, v in straight.items()} | {f"resumed.{k}": v for k, v in resumed.items()})

    first, second = together(tmp_path, body)
    assert first["resumed.losses"].equal(first["straight.losses"][10:])
    for said in (first, second):
        assert all(said[f"straight.{name}"].equal(said[f"resumed.{name}"]) for name in model.state_dict())


def test_what_one_process_is_asked_all_do(tmp_path: Path, model: GPT, batches: Batches, train_params: Any) -> None:
    def body(team: Team, say: Say) -> None:
        heard = iter([0, 0, 0, 15 * team.rank] + [15] * 9)  # a signal to rank 1 alone, in its fourth step
        try:
            run(model, batches, train_params(), team, interrupted=lambda: next(heard))
        except Interrupted as error:
            say({"status": torch.tensor(error.exit_code), "after": torch.tensor(int(str(error).split()[5]))})

    assert [(int(said["status"]), int(said["after"])) for said in together(tmp_path, body)] == [(143, 4), (143, 4)]


def test_processes_that_would_start_from_different_states_refuse(tmp_path: Path) -> None:
    """As on machines that do not share their checkpoints: all of them stop, and say so."""

    def body(team: Team, say: Say) -> None:
        team.require_same("the same")
        try:
            team.require_same(f"step {10 * (team.rank == 1)}")
        except ArtifactError as error:
            say({"refused": torch.tensor("process 1 does not start from what process 0" in str(error))})

    assert [bool(said["refused"]) for said in together(tmp_path, body)] == [True, True]


def test_machines_with_other_cores_compute_and_look_for_checkpoints_as_the_first_does(
    tmp_path: Path, model: GPT, train_params: Any
) -> None:
    def body(team: Team, say: Say) -> None:
        overrides = [f"run.threads={2 + team.rank}", "run.processes=2", "run.compile=never"]
        precision = "run.precision=" + ("bfloat16" if team.leads else "float32")
        how = choose(load_params(ROOT / "params.yaml", [*overrides, precision]).run, model, train_params()).how
        say({"how": torch.tensor([how.threads, how.precision == "bfloat16"])})

    assert [said["how"].tolist() for said in together(tmp_path, body)] == [[2, 1], [2, 1]]


def test_a_process_that_was_not_started_as_one_of_many_says_so() -> None:
    params = load_params(ROOT / "params.yaml", ["run.processes=2"])
    with pytest.raises(ParamsError, match=r"run\.processes: 2 asked for, but 1 started"):
        team_of(params.run, CPU)
