"""Profiles: what wins over what, a broken one is named by file and line, and none of the shipped ones rots."""

import os
import re
import subprocess
from collections.abc import Callable
from operator import attrgetter
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from troupe.cli import models
from troupe.errors import ParamsError
from troupe.models.layers import GPTConfig
from troupe.overlay import ABOUT, fields_of, leaves, read_yaml
from troupe.params import load_params

ROOT = Path(__file__).parents[1]
SHIPPED = ROOT / "params.yaml"
PROFILES = sorted((ROOT / "profiles").glob("*.yaml"))
FACTS = ["what", "hardware", "time", "figure", "measured"]


@pytest.fixture
def profile(tmp_path: Path) -> Callable[[str], Path]:
    """A workspace's params.yaml beside the profile `mine` with this content."""

    def write(content: str) -> Path:
        (tmp_path / "params.yaml").write_text(SHIPPED.read_text(encoding="utf-8"), encoding="utf-8")
        (tmp_path / "profiles").mkdir()
        (tmp_path / "profiles" / "mine.yaml").write_text(content, encoding="utf-8")
        return tmp_path / "params.yaml"

    return write


def test_overrides_win_over_the_profile_and_the_profile_over_the_file(profile: Callable[[str], Path]) -> None:
    path = profile("about: {what: a test}\npretrain:\n  steps: 11\n  batch_size: 3\nrun: {seed: 5}\n")
    shipped, mine = load_params(SHIPPED), load_params(path, ["pretrain.steps=12"], "mine")
    assert (mine.pretrain.steps, mine.pretrain.batch_size, mine.run.seed) == (12, 3, 5)
    changed = {"pretrain": shipped.pretrain.model_copy(update={"steps": 12, "batch_size": 3})}
    assert mine == shipped.model_copy(update=changed | {"run": shipped.run.model_copy(update={"seed": 5})})
    assert fields_of(path, "mine", ["pretrain.steps=12"]) == ["pretrain.batch_size", "pretrain.steps", "run.seed"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("pretrain:\n  steps: 5\n  stepps: 5\n", "mine.yaml:3: pretrain.stepps: unknown parameter"),
        ("pretrain:\n  steps: 5\npretrian:\n  steps: 5\n", "mine.yaml:3: pretrian: unknown parameter"),
        ("# small\npretrain:\n  steps: some\n", "mine.yaml:3: pretrain.steps: Input should be a valid integer"),
        ("run:\n  seed: 1\nmodel:\n  n_embd: 190\n", "mine.yaml:3: model: n_embd (190) must be divisible by n_head"),
        ("evaluate: {stride: 100000}\n", "mine.yaml: evaluate.stride (100000) must not exceed model.block_size"),
        ("pretrain: 5\n", "mine.yaml:1: pretrain: a section of parameters, got 5"),
        ("run: [1\n", "mine.yaml:2: not YAML"),
        ("- 1\n", "mine.yaml: expected sections"),
        ("run: {seed: 1}\nrun: {seed: 2}\n", "mine.yaml:2: not YAML: found duplicate key"),
    ],
)
def test_a_fault_of_a_profile_names_its_file_and_line(profile: Callable[[str], Path], content: str, says: str) -> None:
    with pytest.raises(ParamsError) as error:
        load_params(profile(content), profile="mine")
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_a_fault_of_an_override_is_not_blamed_on_the_profile(profile: Callable[[str], Path]) -> None:
    with pytest.raises(ParamsError, match=r"^override: pretrain\.steps"):
        load_params(profile("pretrain: {steps: 5}\n"), ["pretrain.steps=0"], "mine")


@pytest.mark.parametrize("name", ["nope", "../params", "mine.yaml"])
def test_an_unknown_profile_is_one_line_with_the_known_ones(profile: Callable[[str], Path], name: str) -> None:
    path = profile("run: {seed: 1}\n")
    with pytest.raises(ParamsError) as error:
        load_params(path, profile=name)
    assert str(error.value) == f"profile {name!r}: no such profile; there are mine"


@pytest.mark.parametrize("path", PROFILES, ids=lambda path: path.stem)
def test_every_profile_is_valid_and_says_what_it_is(path: Path) -> None:
    content = YAML(typ="safe").load(path.read_text(encoding="utf-8"))
    assert list(content[ABOUT]) == FACTS  # `troupe profiles` prints them
    assert all(isinstance(fact, str) and fact for fact in content[ABOUT].values())
    params, given = load_params(SHIPPED, profile=path.stem), _fields(path)
    assert {name: attrgetter(name)(params) for name in given} == given


@pytest.mark.parametrize("path", PROFILES, ids=lambda path: path.stem)
def test_a_profile_holds_only_what_differs(path: Path) -> None:
    """A value that repeats params.yaml would have two homes."""
    shipped = load_params(SHIPPED)
    assert not [name for name, value in _fields(path).items() if attrgetter(name)(shipped) == value]


def test_the_profile_gpu2_124m_is_gpt2_exactly() -> None:
    """The dimensions of OpenAI's smallest (Radford et al. 2019, table 2), and none of the departures."""
    params = load_params(SHIPPED, profile="gpu2-124m")
    assert GPTConfig(50_257, **params.model.model_dump()) == GPTConfig(50_257, 1024, 12, 12, 768, dropout=0.0)
    assert params.tokens.kind == "gpt2"


def test_make_help_lists_every_profile_and_troupe_says_what_they_are(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before a set-up there is no `troupe`, but help."""
    bare = subprocess.run(["make", "help", "VENV=none"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert f"  {' '.join(path.stem for path in PROFILES)}; after `make setup`, what they are\n" in bare
    monkeypatch.chdir(ROOT)
    models.profiles()
    told = capsys.readouterr().out
    for path in PROFILES:
        about = YAML(typ="safe").load(path.read_text(encoding="utf-8"))[ABOUT]
        lines = f"  {path.stem:<12} {about['what']}\n{'':15}{about['time']} on {about['hardware']}; {about['figure']} "
        assert f"{lines}({about['measured']})\n" in told


def test_a_profile_of_ones_own_needs_to_say_nothing_of_itself(
    profile: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(profile("run: {seed: 1}\n").parent)
    models.profiles()
    assert capsys.readouterr().out == "  mine\n"


@pytest.mark.parametrize("name", ["SET", "PROFILE"])
def test_make_hands_on_what_is_typed(tmp_path: Path, name: str) -> None:
    """As an argument of make and in its environment; make would expand a `$` and end at a `#`."""
    typed = "evaluate.prompt='Chapter #1: $5 $$ $(shell id) \\# % \"two\"\n  ' run.seed=3"
    show = tmp_path / "show.mk"
    show.write_text(f'show:\n\t@printf %s "$${name}"\n')
    command, options = ["make", "-f", str(ROOT / "Makefile"), "-f", str(show), "show"], {"cwd": ROOT, "text": True}
    assert subprocess.run([*command, f"{name}={typed}"], **options, capture_output=True).stdout == typed
    given = {**os.environ, name: typed}
    assert subprocess.run(command, **options, capture_output=True, env=given).stdout == typed


def _fields(path: Path) -> dict[str, object]:
    """The values that a profile sets, by field."""
    return dict(leaves({name: values for name, values in read_yaml(path).items() if name != ABOUT}))


@pytest.mark.parametrize(
    ("override", "says"),
    [
        (
            "adversarial.tilts.rounds=2",
            "no section 'adversarial.tilts'; there are temperature, likelihood, tilt, gan, ddo, distil, moments",
        ),
        ("adversarial.tilt.rounds.=2", "write section.key=value"),
        ("run.seed.x=2", "no section 'run.seed'"),
        ("adversarial.tilt.round=2", "adversarial.tilt.round: unknown parameter"),
    ],
)
def test_a_fault_in_a_section_within_a_section_is_named(override: str, says: str) -> None:
    with pytest.raises(ParamsError, match=re.escape(says)):
        load_params(SHIPPED, [override])


def test_a_profile_changes_one_field_of_a_section_within_a_section(profile: Callable[[str], Path]) -> None:
    path = profile("adversarial:\n  gan:\n    discriminator:\n      reference: {steps: 7}\n")
    shipped, changed = load_params(path).adversarial, load_params(path, profile="mine").adversarial
    assert changed.gan.discriminator.reference.steps == 7
    reference = shipped.gan.discriminator.reference.model_copy(update={"steps": 7})
    discriminator = shipped.gan.discriminator.model_copy(update={"reference": reference})
    assert changed == shipped.model_copy(
        update={"gan": shipped.gan.model_copy(update={"discriminator": discriminator})}
    )
    assert fields_of(path, "mine", ["run.seed=1"]) == ["adversarial.gan.discriminator.reference.steps", "run.seed"]
