"""The adversarial stage: files in, files out; killed without warning, it ends with the same bytes."""

import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

from troupe.conversion.attention import convert
from troupe.data.tokenizer import load_tokenizer
from troupe.errors import ArtifactError
from troupe.files import read_json
from troupe.layout import CHECKPOINTS, EFFECTIVE_PARAMS, TOKENS, model_dir
from troupe.models.bundle import load_bundle, save_bundle
from troupe.models.config import GPTConfig
from troupe.models.gpt2 import GPT, init_gpt2
from troupe.models.switchhead import SwitchHeadConfig
from troupe.params import Params, dump_params
from troupe.seeding import generator
from troupe.stages.adversarial import adversarial
from troupe.stages.log import read_metrics

FOLDER = model_dir("adversarial")
LOG = FOLDER / "metrics.jsonl"
COMMAND = [sys.executable, "-m", "troupe.stages.adversarial", "--params", str(EFFECTIVE_PARAMS)]
SMALL = {
    "steps": 12,
    "batch_size": 4,
    "n_critic": 1,
    "critic_embd": 8,
    "critic_hidden": 8,
    "warmup_critic": 2,
    "eval_interval": 4,
    "checkpoint_interval": 2,
}
BOUNDS = {"max_bpb_rise": 10.0, "min_distinct": 0.0}


@pytest.fixture
def experts(workspace: Params) -> Params:
    """The workspace with an artifacts/moe in it; an untrained one will do."""
    dense = GPT(GPTConfig(300, **workspace.model.model_dump()))
    init_gpt2(dense, generator(0, "test"))
    n_head, head_width = dense.config.n_head, dense.config.n_embd // dense.config.n_head
    experts = SwitchHeadConfig(n_head, head_width, n_expert=2, top_k=1, router="sigmoid")
    model = convert(dense, experts, "exact", generator(0, "test"))
    save_bundle(model_dir("moe"), model, load_tokenizer(TOKENS / "tokenizer.json"), {"stage": "moe"})
    return changed(workspace, **SMALL, **BOUNDS)


def changed(params: Params, **values: object) -> Params:
    return params.model_copy(update={"adversarial": params.adversarial.model_copy(update=values)})


def test_it_writes_a_model_its_log_and_a_summary(experts: Params, capsys: pytest.CaptureFixture[str]) -> None:
    adversarial(experts)
    bundle, summary, log = load_bundle(FOLDER), read_json(FOLDER / "summary.json"), read_metrics(LOG)
    parent = load_bundle(model_dir("moe"))
    assert bundle.config["architecture"] == "switchhead"
    assert bundle.config["provenance"]["parent_weights_sha256"] == parent.sha256
    assert summary["weights_sha256"] == bundle.sha256 != parent.sha256
    assert [record["step"] for record in log] == list(range(13))
    assert summary["start/val/bpb"] == log[0]["val/bpb"]
    assert summary["kept/val/bpb"] == log[12]["val/bpb"]
    assert summary["kept/critic/auc"] == log[12]["critic/auc"]
    assert (summary["kept_step"], summary["collapsed"]) == (12, False)
    assert f"adversarial: kept {summary['kept']}\n" in capsys.readouterr().out
    assert [path.stem for path in CHECKPOINTS.rglob("*.safetensors")] == ["00000012"]


def test_a_collapse_keeps_the_start_and_says_so(experts: Params) -> None:
    adversarial(changed(experts, learning_rate=1.0, kl_weight=0.0, max_bpb_rise=0.0))
    summary = read_json(FOLDER / "summary.json")
    assert (summary["kept_step"], summary["collapsed"]) == (0, True)
    assert summary["kept"].startswith("step 0: stopped, for val/bpb is")
    assert summary["weights_sha256"] == load_bundle(model_dir("moe")).sha256


def test_without_the_expert_model_it_says_what_to_run(workspace: Params) -> None:
    with pytest.raises(ArtifactError, match=r"artifacts/moe/config\.json"):
        adversarial(workspace)


@pytest.mark.slow
def test_killed_without_warning_it_ends_with_the_same_bytes(experts: Params) -> None:
    adversarial(experts)
    undisturbed = load_bundle(FOLDER).sha256
    shutil.rmtree(FOLDER)
    shutil.rmtree(CHECKPOINTS)
    dump_params(experts, EFFECTIVE_PARAMS)
    with subprocess.Popen(COMMAND, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None and len(read_metrics(LOG)) < 6:
            time.sleep(0.001)
        os.kill(process.pid, signal.SIGKILL)
    assert not (FOLDER / "summary.json").exists(), "killed too late to show anything"
    shutil.rmtree(FOLDER)  # as DVC does with a stage's outputs before it runs the stage again
    adversarial(experts)
    assert read_json(FOLDER / "summary.json")["resumed_at_step"] >= 4
    assert load_bundle(FOLDER).sha256 == undisturbed
    assert [record["step"] for record in read_metrics(LOG)] == list(range(13))
