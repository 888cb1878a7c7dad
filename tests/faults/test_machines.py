"""Two machines that train one model, here two network namespaces: own interfaces, own addresses, one folder."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import torch.distributed as dist

from tests.forked import forked
from troupe.bundles.architectures import load_bundle
from troupe.files import read_json
from troupe.layout import CHECKPOINTS, EFFECTIVE_PARAMS, model_dir
from troupe.params import Params, dump_params
from troupe.progress import read_metrics
from troupe.stages.pretrain import pretrain

FOLDER = model_dir("pretrain")
LOG = FOLDER / "metrics.jsonl"
STEPS = 120
COMMAND = [sys.executable, "-m", "troupe.stages.pretrain", "--params", str(EFFECTIVE_PARAMS)]


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


@pytest.fixture
def machines() -> Iterator[list[str]]:
    """The names of two network namespaces, the ends of one cable, with the addresses 10.77.0.1 and 10.77.0.2."""
    names = [f"troupe-{os.getpid()}-{number}" for number in (1, 2)]
    ends = [f"tr{os.getpid()}-{number}" for number in (1, 2)]
    try:
        for name in names:
            ip("netns", "add", name)
        ip("link", "add", ends[0], "netns", names[0], "type", "veth", "peer", "name", ends[1], "netns", names[1])
        for number, (name, end) in enumerate(zip(names, ends, strict=True), 1):
            ip("-n", name, "link", "set", end, "name", "cable")
            ip("-n", name, "address", "add", f"10.77.0.{number}/30", "dev", "cable")
            for device in ("cable", "lo"):
                ip("-n", name, "link", "set", device, "up")
        yield names
    except (FileNotFoundError, subprocess.CalledProcessError) as error:
        said = getattr(error, "stderr", None) or error
        pytest.skip(f"no network namespaces here: {said!r}")
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)


def start(machines: list[str]) -> list["subprocess.Popen[str]"]:
    """The stage's command on each machine; of the first the others know the address."""
    agents = []
    for number, machine in enumerate(machines, 1):
        environment = {
            **os.environ,
            "PET_RDZV_ENDPOINT": "10.77.0.1:29400",
            "PET_RDZV_CONF": f"is_host={int(number == 1)}",  # a namespace has no name of its own to tell it by
            "PET_LOCAL_ADDR": f"10.77.0.{number}",
            "GLOO_SOCKET_IFNAME": "cable",
        }
        command = ["ip", "netns", "exec", machine, *COMMAND]
        agents.append(
            subprocess.Popen(
                command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, process_group=0
            )
        )
    return agents


def undisturbed_pair(params: Params) -> None:
    """Train in two processes on this machine, without agents."""

    def one(rank: int) -> None:
        dist.init_process_group("gloo", init_method=f"file://{Path('meeting').absolute()}", rank=rank, world_size=2)
        pretrain(params)
        dist.destroy_process_group()

    processes = [forked(lambda rank=rank: one(rank), Path(f"says{rank}")) for rank in (0, 1)]  # type: ignore[misc]
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0]


def kill_a_rank(agent: "subprocess.Popen[str]") -> None:
    """The process that trains on one machine, without warning; its agent lives on."""
    (rank,) = [child for child in psutil.Process(agent.pid).children() if "troupe.stages.pretrain" in child.cmdline()]
    rank.send_signal(signal.SIGKILL)


@pytest.mark.fault("a process on one of two machines is killed: started again by torchrun, the same weights")
@pytest.mark.slow
def test_a_process_on_one_of_two_machines_is_killed(workspace: Params, machines: list[str]) -> None:
    """The weights are those of two processes on one machine that nothing disturbed."""
    longer = workspace.model_copy(update={"pretrain": workspace.pretrain.model_copy(update={"steps": STEPS})})
    together = longer.model_copy(update={"run": longer.run.model_copy(update={"processes": 2})})
    undisturbed_pair(together)
    undisturbed = load_bundle(FOLDER).sha256
    shutil.rmtree(FOLDER)
    shutil.rmtree(CHECKPOINTS)

    apart = {"nodes": 2, "launcher": "torchrun"}
    dump_params(together.model_copy(update={"run": together.run.model_copy(update=apart)}), EFFECTIVE_PARAMS)
    agents = start(machines)
    try:
        while len(read_metrics(LOG)) < 9 and all(agent.poll() is None for agent in agents):
            time.sleep(0.001)
        kill_a_rank(agents[1])
        assert not (FOLDER / "summary.json").exists(), "killed too late to show anything"
        said = [agent.communicate(timeout=120)[0] for agent in agents]
    finally:
        for agent in agents:
            if agent.poll() is None:
                os.killpg(agent.pid, signal.SIGKILL)
    assert [agent.returncode for agent in agents] == [0, 0], said
    # What leads prints a line at each start. Failures may be two of one restart: the peer's connection breaks, too.
    starts = re.findall(r"^pretrain +\d+ threads?, ", "\n".join(said), re.MULTILINE)
    assert len(starts) == 2, f"not started again once: {said}"
    assert read_json(FOLDER / "summary.json")["resumed_at_step"] >= 8
    assert [record["step"] for record in read_metrics(LOG)] == list(range(1, STEPS + 1))
    assert load_bundle(FOLDER).sha256 == undisturbed
