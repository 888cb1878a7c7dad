"""Every benchmark and every study that lacks something says so in one line, and ends with a status."""

import runpy
import sys
from pathlib import Path

import pooch
import pytest

from tests.conftest import ROOT

NOWHERE = ["--config", "nowhere.yaml"]
FAULTS = {  # the words of its command line, the variables of its environment, what it says
    "benchmarks.attention_step": (["dense layer", "16", "float32", "--quick"], {}, "params.yaml: no such file"),
    "benchmarks.fit": (["nowhere.yaml"], {}, "no such file"),
    "benchmarks.generation": (["--quick"], {"NANOGPT": "nowhere"}, "no checkout of nanoGPT"),
    "benchmarks.nanogpt_bf16": ([], {}, "inside a copy of nanoGPT"),
    "benchmarks.nanogpt_loss": ([], {}, "inside a copy of nanoGPT"),
    "benchmarks.serving": (["--quick"], {}, "params.yaml: no such file"),
    "benchmarks.shakespeare": (["--quick"], {"NANOGPT": "nowhere"}, "no checkout of nanoGPT"),
    "benchmarks.switchhead": (["--quick"], {}, "params.yaml: no such file"),
    "benchmarks.text_size": (["--quick"], {}, "params.yaml: no such file"),
    "benchmarks.tokenisation": (["--quick"], {}, "tiny-shakespeare.txt"),
    "benchmarks.training": (["--quick"], {"NANOGPT": "checkout"}, "tiny-shakespeare.txt"),
    "studies.adversarial": (NOWHERE, {}, "nowhere.yaml: no such file"),
    "studies.architectures": (NOWHERE, {}, "nowhere.yaml: no such file"),
    "studies.decoding": (NOWHERE, {}, "nowhere.yaml: no such file"),
    "studies.gan": (NOWHERE, {}, "nowhere.yaml: no such file"),
    "studies.ladder": (NOWHERE, {}, "nowhere.yaml: no such file"),
    "studies.mixture": (NOWHERE, {}, "nowhere.yaml: no such file"),
    "studies.moe": (NOWHERE, {}, "nowhere.yaml: no such file"),
    "studies.oracle": (NOWHERE, {}, "nowhere.yaml: no such file"),
}


def test_every_module_that_is_started_is_here() -> None:
    started = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__main__")
        for folder in ("benchmarks", "studies")
        for path in (ROOT / folder).rglob("*.py")
        if 'if __name__ == "__main__":' in path.read_text()
    }
    assert started == FAULTS.keys()


@pytest.mark.filterwarnings("ignore:.* found in sys.modules:RuntimeWarning")
@pytest.mark.parametrize("module", FAULTS)
def test_what_is_missing_is_one_line(
    module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words, variables, says = FAULTS[module]
    (tmp_path / "checkout").mkdir()
    (tmp_path / "checkout/train.py").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [module, *words])
    monkeypatch.setattr(pooch.get_logger(), "disabled", True)  # it announces a download
    for name in ("NANOGPT", "TROUPE_MIRROR"):
        monkeypatch.delenv(name, raising=False)
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS"):
        monkeypatch.setenv(name, "1")  # which some of them set
    nobody = dict.fromkeys(("https_proxy", "HTTPS_PROXY"), "http://127.0.0.1:9")
    for name, value in {**nobody, "XDG_CACHE_HOME": str(tmp_path), **variables}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as ended:
        runpy.run_module(module, run_name="__main__")
    said = capsys.readouterr().err.splitlines() or [str(ended.value)]
    assert len(said) == 1, said
    assert says in said[0]
    assert ended.value.code not in (0, None)
