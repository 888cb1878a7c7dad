"""params.yaml: what the schema accepts, and that every refusal names file, line and field."""

import re
import shlex
from collections.abc import Callable
from operator import attrgetter
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from troupe.adversarial.reinforce import BASELINES
from troupe.errors import ParamsError
from troupe.overlay import as_typed, join_overrides, split_overrides
from troupe.params import GanParams, Params, dump_params, load_params

SHIPPED = Path(__file__).parents[1] / "params.yaml"


@pytest.fixture
def edited(tmp_path: Path) -> Callable[[str, str], Path]:
    """params.yaml with one piece of text replaced."""

    def edit(old: str, new: str) -> Path:
        text = SHIPPED.read_text()
        assert text.count(f"\n{old}") == 1, old
        path = tmp_path / "params.yaml"
        path.write_text(text.replace(f"\n{old}", f"\n{new}"))
        return path

    return edit


def test_the_shipped_file_is_valid_and_survives_a_round_trip(tmp_path: Path) -> None:
    params = load_params(SHIPPED)
    dump_params(params, tmp_path / "copy.yaml")
    assert load_params(tmp_path / "copy.yaml") == params


@settings(max_examples=15)
@given(st.floats(min_value=1e-300, max_value=10), st.integers(1, 10**9))
def test_any_value_survives_a_round_trip(tmp_path_factory: pytest.TempPathFactory, rate: float, steps: int) -> None:
    path = tmp_path_factory.mktemp("params") / "params.yaml"
    params = load_params(SHIPPED, [f"pretrain.learning_rate={rate!r}", f"pretrain.steps={steps}"])
    dump_params(params, path)
    again = load_params(path)
    assert (again.pretrain.learning_rate, again.pretrain.steps) == (rate, steps)


def test_a_rate_without_a_dot_is_a_number() -> None:
    """PyYAML would read 3e-4 as text."""
    assert load_params(SHIPPED, ["pretrain.learning_rate=3e-4"]).pretrain.learning_rate == pytest.approx(0.0003)


TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1)


@settings(max_examples=15)
@given(TEXT)
@example("Chapter #1")
@example(" ends in blanks  ")
@example("ROMEO:")
@example("1984")
@example("*.txt")
@example("null")
@example("'\"$HOME \\ \t\r\n")
@example("\x1a" * 30 + " \x85")  # ruamel folds such a line where no blank is, and writes U+0085 as it stands
def test_a_text_that_is_typed_arrives_as_it_was_typed(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    """By the command line, and by the file from which every other stage reads it."""
    path = tmp_path_factory.mktemp("params") / "params.yaml"
    params = load_params(SHIPPED, split_overrides(f"run.seed=3 evaluate.prompt={shlex.quote(text)} pretrain.steps=7"))
    assert (params.evaluate.prompt, params.run.seed, params.pretrain.steps) == (text, 3, 7)
    dump_params(params, path)
    assert load_params(path) == params


@given(st.lists(TEXT))
def test_a_line_of_overrides_survives_the_record_and_the_shell(values: list[str]) -> None:
    overrides = [f"evaluate.prompt={value}" for value in values]
    assert split_overrides(join_overrides(overrides)) == overrides
    assert shlex.split(as_typed(overrides)) == [f"SET={join_overrides(overrides)}"]
    assert as_typed(["run.seed=1", "pretrain.steps=5"]) == 'SET="run.seed=1 pretrain.steps=5"'


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("moe.n_head=null", None),
        ("moe.head_width=null", None),
        ("pretrain.steps=500", 500),
        ("evaluate.temperatures=[0.5, 2]", [0.5, 2.0]),
        ("evaluate.temperatures=[]", []),
        ("model.bias=true", True),
        ("run.device=cpu", "cpu"),
        ("adversarial.gan.baseline=batch mean", "batch mean"),
        ("data.source=data/mine/*.txt", "data/mine/*.txt"),
    ],
)
def test_what_is_no_string_is_yaml(override: str, value: object) -> None:
    assert attrgetter(override.partition("=")[0])(load_params(SHIPPED, [override])) == value


@settings(max_examples=15)
@given(st.text())
@example("\x07")
@example("2001-99-99")
@example("9" * 5000)
@example("[" * 1000)
@example("!!int x")
@example("!!bool x")
@example("{a: b: c")
def test_whatever_is_typed_for_a_number_is_a_number_or_one_line(text: str) -> None:
    try:
        load_params(SHIPPED, [f"pretrain.steps={text}"])
        fault = ""
    except ParamsError as error:
        fault = str(error)
    assert not fault or (fault.startswith("override") and len(fault.splitlines()) == 1)


def test_overrides_leave_the_file_alone() -> None:
    before = SHIPPED.read_bytes()
    assert load_params(SHIPPED, ["pretrain.steps=7", "data.source=tiny-shakespeare"]).pretrain.steps == 7
    assert SHIPPED.read_bytes() == before


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("  n_layer: ", "  n_layers: 3\n  n_layer: ", "model.n_layers: unknown parameter"),
        ("  n_layer: ", "  # n_layer: ", "model.n_layer: missing"),
        ("  n_layer: ", "  n_layer: many #", "model.n_layer: Input should be a valid integer, got 'many'"),
        ("  n_layer: ", "  n_layer: 0 #", "greater than or equal to 1, got 0"),
        ("  n_layer: ", "  n_layer: true #", "valid integer, got True"),
        ("  dropout: ", "  dropout: 1.0 #", "model.dropout: Input should be less than 1"),
        ("  nodes: ", "  nodes: 2 #", "run: processes (1) must be divisible by nodes (2)"),
        ("  launcher: ", "  launcher: docker #", "run: launcher: docker cannot look what device there is; set device"),
        ("  launcher: ", "  launcher: slurm #", "run.launcher: Input should be 'local', 'torchrun', 'docker' or"),
        (
            "    objective: ",
            "    objective: lsgan #",
            "adversarial.gan.objective: Input should be 'gan', 'wgan'",
        ),
        ("  methods: [", "  methods: [tilts, ", "adversarial.methods.0: Input should be 'temperature', 'likelihood'"),
        ("  methods: [", "  methods: [gan, ", "adversarial.methods: each method once, got ['gan', 'tilt', 'gan']"),
        ("  n_embd: 192", "  n_embd: 190 #", "n_embd (190) must be divisible by n_head"),
        ("  processes: ", "  processes: 7 #", "must be divisible by run.processes (7)"),
        ("    order: ", "    order: 1 #", "adversarial.tilt.order: Input should be greater than or equal to 2"),
        (
            "  kind: bpe",
            "  kind:",
            "tokens.kind: Input should be 'bytes', 'chars', 'bpe', 'gpt2' or 'pretrained', got None",
        ),
        (
            "  prompt: ",
            "  prompt: 1984 #",
            "evaluate.prompt: Input should be a valid string, got 1984; put the text in",
        ),
        ("  bpb_margin: ", "  bpb_margin: .nan #", "promote.bpb_margin"),
        ("  temperatures: [", "  temperatures: [1.0, ", "evaluate.temperatures: each must be another than 1"),
        ("  temperatures: [", "  temperatures: [0.5, 0.5, ", "evaluate.temperatures: each must be another than 1"),
    ],
)
def test_a_fault_names_file_and_field(edited: Callable[[str, str], Path], old: str, new: str, says: str) -> None:
    path = edited(old, new)
    with pytest.raises(ParamsError) as error:
        load_params(path)
    assert str(error.value).startswith(str(path))
    assert says in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        ("run.precision=float32 run.compile=always", "torch cannot compile grouped in float32"),
        (
            "run.compile=never model.n_head=32",
            "multiples of 4, not model.n_embd 192 with moe.head_width 6 (null: n_embd",
        ),
        ("moe.conversion=distilled moe.head_width=6", "multiples of 4, not model.n_embd 192 with moe.head_width 6"),
        ("run.precision=bfloat16 model.n_embd=180 model.n_head=3", "multiples of 8, not model.n_embd 180"),
        ("run.precision=bfloat16 model.n_head=48", "multiples of 8, not model.n_embd 192 with moe.head_width 4"),
    ],
)
def test_grouped_experts_that_torch_cannot_compute_are_refused(overrides: str, says: str) -> None:
    with pytest.raises(ParamsError, match=r"moe\.compute") as error:
        load_params(SHIPPED, ["moe.compute=grouped", *overrides.split()])
    assert says in str(error.value)
    assert "\n" not in str(error.value)
    load_params(SHIPPED, overrides.split())  # as the kernel is not asked for


@pytest.mark.parametrize(
    "overrides",
    [
        "run.precision=float32 run.compile=never",
        "run.precision=float32 run.compile=auto",  # which then does not compile
        "run.precision=bfloat16 run.compile=always",
        "run.compile=always",  # in bfloat16 where the hardware has it: the stage will know
    ],
)
def test_grouped_experts_that_torch_can_compute_are_not(overrides: str) -> None:
    assert load_params(SHIPPED, ["moe.compute=grouped", *overrides.split()]).moe.compute == "grouped"


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        ("gan.prompt_length=1000", "adversarial.gan: sequence_length (48) must be more than an eighth of it and"),
        ("gan.sequence_length=100000", "adversarial.gan: prompt_length + sequence_length (100016) must not exceed 128"),
        ("tilt.prompt_length=128", "adversarial.tilt: prompt_length (128) must not exceed 127 where model.block_size"),
        ("distil.candidates=1025", "adversarial.distil.candidates: Input should be less than or equal to 1024"),
        (
            "gan.discriminator.reference.n_embd=95",
            "gan.discriminator.reference.n_embd: Input should be a",
        ),
        ("gan.discriminator=3", "adversarial.gan.discriminator: a section of parameters, got 3"),
    ],
)
def test_faults_of_a_methods_section_name_it(overrides: str, says: str) -> None:
    with pytest.raises(ParamsError, match=re.escape(says)) as error:
        load_params(SHIPPED, [f"adversarial.{override}" for override in overrides.split()])
    assert "\n" not in str(error.value)


def test_lengths_of_methods_that_are_not_run_may_be_any() -> None:
    load_params(SHIPPED, ["adversarial.methods=[tilt]", "adversarial.gan.sequence_length=100000"])


@pytest.mark.parametrize("gone", ["replay=1", "learn=none", "tilt_rounds=3"])
def test_what_there_was_once_is_refused_by_name(gone: str) -> None:
    with pytest.raises(ParamsError) as error:
        load_params(SHIPPED, [f"adversarial.{gone}"])
    name = f"adversarial.{gone.partition('=')[0]}"
    assert str(error.value) == f"override: {name}: unknown parameter; remove it or correct its name"


def test_every_baseline_can_be_asked_for() -> None:
    assert {*get_args(GanParams.model_fields["baseline"].annotation)} == {*BASELINES}


def test_a_fault_names_its_line(edited: Callable[[str, str], Path]) -> None:
    path = edited("  n_layer: ", "  n_layer: many #")
    line = next(i for i, text in enumerate(path.read_text().splitlines(), 1) if "many" in text)
    with pytest.raises(ParamsError, match=f":{line}: model.n_layer"):
        load_params(path)


def test_every_fault_is_told_at_once(edited: Callable[[str, str], Path]) -> None:
    with pytest.raises(ParamsError) as error:
        load_params(edited("  n_layer: ", "  n_layer: many #"), ["pretrain.steps=0"])
    assert len(str(error.value).splitlines()) == 2


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("pretrain.steps", "write section.key=value"),
        ("steps=3", "write section.key=value"),
        ("pretrian.steps=3", "no section 'pretrian'"),
        ("pretrain.stepps=3", "pretrain.stepps: unknown parameter"),
        ("pretrain.steps=few", "override: pretrain.steps"),
        ("pretrain.steps=[", "not a YAML value"),
        ("#1", "quotes round a value with blanks"),
    ],
)
def test_a_wrong_override_is_named(override: str, says: str) -> None:
    with pytest.raises(ParamsError, match="override") as error:
        load_params(SHIPPED, [override])
    assert says in str(error.value)


@pytest.mark.parametrize(
    ("line", "says"),
    [("evaluate.prompt='x", "no closing quotation"), ("a.b=\0", "NUL"), ("a.b=\udcff", "not UTF-8")],
)
def test_a_line_that_cannot_be_split_is_named(line: str, says: str) -> None:
    with pytest.raises(ParamsError, match=says):
        split_overrides(line)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"run: [1", "not YAML"),
        (b"- 1\n", "expected sections"),
        (b"run: \xff", "not UTF-8 at byte 5"),
        (b"run:\n  seed: \x07\n", "not YAML: it holds the character U\\+0007"),
        (b"run: {seed: 2001-99-99}\n", "not YAML: month must be in"),
        (b"", "sections"),
    ],
)
def test_a_broken_file_is_one_line(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_bytes(content)
    with pytest.raises(ParamsError, match=says):
        load_params(path)


def test_a_missing_file_says_where_to_look(tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match="no such file"):
        load_params(tmp_path / "params.yaml")


def test_every_section_of_the_schema_is_strict() -> None:
    for field in Params.model_fields.values():
        assert field.annotation is not None
        assert field.annotation.model_config["extra"] == "forbid"
        assert field.is_required()
        assert all(inner.is_required() for inner in field.annotation.model_fields.values())
