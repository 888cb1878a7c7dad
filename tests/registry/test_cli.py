"""The command line as a person uses it: what it prints, where, and its exit status."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from troupe import cli
from troupe.bundles.bundle import save_bundle
from troupe.data.tokenizer import BytePairTokenizer, ByteTokenizer
from troupe.models.config import GPTConfig
from troupe.models.gpt2 import GPT, init_gpt2
from troupe.seeding import generator

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def troupe(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """Run a command in this process; give its exit status, standard output and standard error."""

    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["troupe", *words])
        with pytest.raises(SystemExit) as leaving:
            cli.main()
        out, err = capfd.readouterr()
        return int(leaving.value.code or 0), out, err

    return run


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> GPT:
    """A tiny byte model where the stage pretrain would leave it, in the current folder."""
    monkeypatch.chdir(tmp_path)
    model = GPT(GPTConfig(vocab_size=256, block_size=16, n_layer=1, n_head=2, n_embd=8, dropout=0.0))
    init_gpt2(model, generator(0, "cli"))
    save_bundle(Path("artifacts/pretrain"), model, ByteTokenizer(), {})
    return model


@pytest.fixture
def endless(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that can say nothing but "<|endoftext|>", which comes after single bytes as GPT-2's after its tokens."""
    monkeypatch.chdir(tmp_path)
    tokenizer = BytePairTokenizer("gpt2", [bytes([byte]) for byte in range(256)])
    model = GPT(GPTConfig(tokenizer.vocab_size, block_size=16, n_layer=1, n_head=2, n_embd=8, dropout=0.0))
    with torch.no_grad():
        model.norm.weight.zero_()
        model.norm.bias.fill_(1.0)
        model.token_embedding.weight.fill_(-10.0)
        model.token_embedding.weight[tokenizer.end_id] = 10.0
    save_bundle(Path("artifacts/pretrain"), model, tokenizer, {})


def test_help_is_quick_and_lists_every_command() -> None:
    code = "import sys, troupe.cli as c; assert not {'torch', 'mlflow', 'numpy'} & sys.modules.keys(); c.main()"
    done = subprocess.run([sys.executable, "-c", code, "--help"], capture_output=True, text=True, check=True)
    for command in ("generate", "promote", "rollback", "versions", "history", "lineage", "verify", "params", "serve"):
        assert command in done.stdout


@pytest.mark.usefixtures("model")
def test_generates_on_a_stage_and_on_a_folder_the_same_for_one_seed(troupe: Run) -> None:
    words = ["generate", "--prompt", "Once ", "--max-new-tokens", "40", "--seed", "7"]
    status, out, err = troupe(*words, "--model", "pretrain")
    assert (status, err) == (0, "")
    assert out.startswith("Once ")
    assert out.endswith("\n")
    assert troupe(*words, "--model", "artifacts/pretrain")[1] == out
    assert troupe(*words[:-1], "8", "--model", "pretrain")[1] != out
    assert troupe(*words, "--model", "pretrain", "--greedy", "--repetition-penalty", "1.3")[1] != out
    likeliest = troupe(*words, "--model", "pretrain", "--greedy")[1]
    assert troupe(*words, "--model", "pretrain", "--min-p", "1")[1] == likeliest != out


@pytest.mark.usefixtures("endless")
def test_the_token_that_ends_a_text_ends_it_unwritten(troupe: Run) -> None:
    words = ["generate", "--model", "pretrain", "--prompt", "x", "--max-new-tokens", "3"]
    assert troupe(*words) == (0, "x\n", "")
    assert troupe(*words, "--no-stop") == (0, "x" + 3 * "<|endoftext|>" + "\n", "")


@pytest.mark.usefixtures("endless")
def test_the_server_stops_there_too() -> None:
    from troupe.bundles.architectures import load_bundle
    from troupe.registry.pyfunc import TextGenerator

    server = TextGenerator()
    server.bundle = load_bundle(Path("artifacts/pretrain"))
    assert server.predict(None, ["x", "y z"], {"max_new_tokens": 3}) == ["x", "y z"]


@pytest.mark.usefixtures("model")
def test_a_prompt_longer_than_the_context_is_continued_from_its_end(troupe: Run) -> None:
    words = ["generate", "--model", "pretrain", "--greedy", "--max-new-tokens", "6", "--prompt"]
    long, end = "x" * 50 + "The end is here!", "The end is here!"
    status, out, err = troupe(*words, long)
    assert (status, err) == (0, "troupe: the prompt has 66 tokens; the model sees the last 16\n")
    assert out.removeprefix(long) == troupe(*words, end)[1].removeprefix(end)


def test_characters_that_tokens_share_are_never_cut(troupe: Run, model: GPT, monkeypatch: pytest.MonkeyPatch) -> None:
    """The four bytes of a mask come one by one: nothing three times, the mask; half a character is replaced."""
    from troupe import decoding

    pieces = ["🎭".encode(), "é".encode()[:1]]
    monkeypatch.setattr(decoding, "stream", lambda *_: (torch.tensor([byte]) for piece in pieces for byte in piece))
    written: list[str] = []
    monkeypatch.setattr(sys.stdout, "write", written.append)
    troupe("generate", "--model", "pretrain", "--prompt", "é")
    assert written == ["é", "", "", "", "🎭", "", "\N{REPLACEMENT CHARACTER}\n"]


@pytest.mark.usefixtures("model")
@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--temperature", "0"], "temperature must be above 0"),
        (["--temperature", "nan"], "temperature must be above 0"),
        (["--top-p", "1.5"], "top_p must be above 0 and at most 1"),
        (["--min-p", "2"], "min_p must be from 0 to 1, got 2.0"),
        (["--top-k", "-1"], "top_k must be at least 1"),
        (["--max-new-tokens", "0"], "--max-new-tokens must be at least 1"),
        (["--prompt", ""], "--prompt is empty"),
        (["--model", "nowhere"], "nowhere: no such model"),
        (["--model", "moe"], "moe: no such model"),
        (["--model", "."], "no such file"),
    ],
)
def test_bad_input_is_one_line_and_status_2(troupe: Run, words: list[str], complaint: str) -> None:
    status, out, err = troupe("generate", "--model", "pretrain", "--prompt", "x", *words)
    assert (status, out) == (2, "")
    assert complaint in err
    assert err.count("\n") == 1


@pytest.mark.usefixtures("model")
def test_verify_finds_changed_weights(troupe: Run) -> None:
    assert troupe("verify", "pretrain")[1].startswith("pretrain: whole, sha256 ")
    weights = Path("artifacts/pretrain/model.safetensors")
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    status, _, err = troupe("verify", "pretrain")
    assert status == 2
    assert "model.safetensors: sha256 is" in err


def test_params_are_checked_and_printed_with_overrides(
    troupe: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Path(__file__).parents[2] / "params.yaml"
    monkeypatch.chdir(tmp_path)
    assert "params.yaml: no such file" in troupe("params")[2]
    Path("params.yaml").write_text(source.read_text())
    monkeypatch.setenv("TROUPE_SET", "run.seed=1")
    status, out, _ = troupe("params", "--set", "pretrain.steps=7 model.n_head=2")
    assert status == 0
    assert "seed: 1\n" in out
    assert "steps: 7\n" in out
    Path("profiles").mkdir()
    Path("profiles/mine.yaml").write_text("pretrain: {steps: 9, batch_size: 3}")
    status, out, _ = troupe("params", "--profile", "mine", "--set", "pretrain.steps=7")
    assert "steps: 7\n  batch_size: 3\n" in out
    status, _, err = troupe("params", "--set", "model.n_head=5")
    assert status == 2
    assert "must be divisible by n_head (5)" in err


@pytest.mark.slow
def test_promote_versions_rollback_and_generate_from_the_registry(troupe: Run, evaluated: Callable[..., Path]) -> None:
    from troupe.registry.registration import register
    from troupe.tracking.connection import connection

    run_dir = evaluated(seed=1)
    assert not Path("params.yaml").exists(), "the rule is that of the run that is judged"
    assert troupe("promote")[0] == 2  # not registered yet
    for stage in ("pretrain", "moe", "adversarial"):
        register(stage, run_dir)
    status, out, err = troupe("promote")
    assert (status, err) == (0, "")
    assert out.startswith(
        "promoted: adversarial (models:/troupe-adversarial/1), now champion as models:/troupe/1\n  first"
    )
    assert troupe("promote")[1].startswith("unchanged")
    assert troupe("rollback")[0] == 2

    register("adversarial", evaluated(seed=2, accuracy=0.79))
    status, out, err = troupe("promote")
    assert (status, out) == (3, "")
    assert "not better with 95% confidence" in err
    Path("params.yaml").write_text(Path("artifacts/params.yaml").read_text())
    assert troupe("promote", "--set", "promote.confidence=0.55")[0] == 0
    table = [line.split() for line in troupe("versions")[1].splitlines()]
    assert table[1][:6] == ["troupe", "2", "champion", "1.5000", "0.7900", "promoted"]
    assert table[2][:6] == ["troupe", "1", "previous", "1.5000", "0.8000", "promoted"]
    with connection() as client:
        client.set_model_version_tag("troupe", "1", "test_bpb", "quite good")
    assert [line.split() for line in troupe("versions")[1].splitlines()][2][3:5] == ["quite", "good"]
    assert troupe("rollback")[1] == "champion is models:/troupe/1 again, previous is models:/troupe/2\n"
    assert "whole" in troupe("verify", "models:/troupe@previous")[1]
    lines = troupe("history")[1].splitlines()
    assert [line.split("  ")[1].partition(" ")[0] for line in lines if not line.startswith(" ")] == [
        "promoted",
        "refused",
        "promoted",
        "rolled",
    ]
    assert "  rolled back; champion models:/troupe/2 -> models:/troupe/1; by " in lines[-1]
    assert json.loads(troupe("history", "--json", "--last", "1")[1])["to"] == "models:/troupe/1"
    tree = troupe("lineage")[1]
    assert tree.startswith("models:/troupe/1  alias champion")
    assert "adversarial  version models:/troupe-adversarial/1  sha256 " in tree
    assert "decisions" in tree
    assert json.loads(troupe("lineage", "models:/troupe-moe/1", "--json")[1])["stages"][-1]["stage"] == "moe"
    status, out, err = troupe("generate", "--prompt", "A", "--max-new-tokens", "5", "--seed", "1")
    assert (status, out[0], err) == (0, "A", "")
    assert troupe("generate", "--prompt", "A", "--model", "models:/troupe@nobody")[0] == 2


def test_an_unreachable_registry_is_one_line(troupe: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    for words in (["versions"], ["rollback"], ["verify", "models:/troupe@champion"]):
        status, out, err = troupe(*words)
        assert (status, out) == (2, "")
        assert "MLflow unreachable at http://127.0.0.1:9" in err
