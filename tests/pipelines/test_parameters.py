"""What Prefect's own check of a run's parameters, before the run exists, makes of the forms."""

from pathlib import Path
from typing import Any

import pytest
from prefect.utilities.schema_tools.validation import ValidationError, validate

from pipelines.parameters import as_overrides, form, params_form
from troupe.overlay import leaves, split_overrides
from troupe.params import load_params

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        return params_form().model_dump(exclude_unset=True)


GOOD: list[dict[str, Any]] = [
    {},
    {"profile": "cpu-hours"},
    {"params": {"pretrain": {"steps": 3, "learning_rate": 1}, "run": {"threads": "auto"}}},
    {"params": {"moe": {"n_head": None}, "evaluate": {"temperatures": [0.5, 2.0], "prompt": "Once upon"}}},
    {"overrides": " run.seed=1  data.source='a b.txt' \"evaluate.prompt=Once upon\" "},
    {"when_busy": "skip", "catch_up": "never"},
    {"params": {"adversarial": {"methods": ["tilt"], "tilt": {"rounds": 2}, "gan": {"discriminator": {"updates": 3}}}}},
    {"overrides": "adversarial.tilt.rounds=2 adversarial.gan.discriminator.reference.steps=3"},
]
BAD: list[tuple[dict[str, Any], str]] = [
    ({"profile": "cpu-hour"}, "profile"),
    ({"stages": 3}, "'stages' was unexpected"),
    ({"params": {"pretrian": {}}}, "'pretrian' was unexpected"),
    ({"params": {"pretrain": {"step": 3}}}, "'step' was unexpected"),
    ({"params": {"pretrain": {"steps": 0}}}, "params.pretrain.steps"),
    ({"params": {"pretrain": {"steps": "many"}}}, "params.pretrain.steps"),
    ({"params": {"run": {"device": "tpu"}}}, "params.run.device"),
    ({"overrides": "pretrain.step=3"}, "overrides"),
    ({"overrides": "run.seed=1 run.seed"}, "overrides"),
    ({"overrides": "data.source='a b"}, "overrides"),
    ({"when_busy": "fail"}, "when_busy"),
    ({"params": {"adversarial": {"tilt": {"round": 2}}}}, "'round' was unexpected"),
    ({"params": {"adversarial": {"gan": {"discriminator": {"reference": {"steps": 0}}}}}}, "reference.steps"),
    ({"params": {"adversarial": {"methods": ["tilts"]}}}, "methods"),
    ({"overrides": "adversarial.tilt.round=2"}, "overrides"),
    ({"overrides": "adversarial.tilt=2"}, "overrides"),
]


@pytest.mark.parametrize("parameters", GOOD)
def test_what_the_pipeline_takes_is_taken(parameters: dict[str, Any], schema: dict[str, Any]) -> None:
    validate(parameters, schema, raise_on_error=True)
    overrides = as_overrides(parameters.get("params"), parameters.get("overrides", ""))
    load_params(ROOT / "params.yaml", split_overrides(overrides), parameters.get("profile", ""))


@pytest.mark.parametrize(("parameters", "names"), BAD)
def test_what_it_does_not_take_is_refused(parameters: dict[str, Any], names: str, schema: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=names):
        validate(parameters, schema, raise_on_error=True)


def test_every_value_of_params_yaml_is_offered_with_its_comment(schema: dict[str, Any]) -> None:
    values = load_params(ROOT / "params.yaml").model_dump(mode="json")
    validate({"params": values}, schema, raise_on_error=True)
    field = schema["definitions"]["pretrain"]["properties"]["batch_size"]
    assert field["description"] == "params.yaml: 32; sequences"
    assert "default" not in field, "a field that is left alone is params.yaml's, or the profile's"


def test_sections_of_one_kind_have_each_its_own_values_and_help(schema: dict[str, Any]) -> None:
    helps = {}
    for method in ("gan", "distil"):
        inner = schema["definitions"][f"adversarial.{method}"]["properties"]["discriminator"]
        assert inner == {"$ref": f"#/definitions/adversarial.{method}.discriminator", "title": "discriminator"}
        discriminator = schema["definitions"][f"adversarial.{method}.discriminator"]["properties"]
        reference = schema["definitions"][f"adversarial.{method}.discriminator.reference"]["properties"]
        helps[method] = discriminator["more_rounds"]["description"], reference["steps"]["description"]
    values = load_params(ROOT / "params.yaml").adversarial
    for method, said in helps.items():
        given = getattr(values, method).discriminator
        assert [text.partition(";")[0] for text in said] == [
            f"params.yaml: {value}" for value in (given.more_rounds, given.reference.steps)
        ]
    assert helps["gan"] != helps["distil"], "the test shows something"


def test_no_field_is_a_boolean_that_the_form_would_send_as_false_when_nobody_has_touched_it(
    schema: dict[str, Any],
) -> None:
    fields = [field for section in schema["definitions"].values() for field in section["properties"].values()]
    assert [field for field in fields if field.get("type") == "boolean"] == []
    booleans = [
        name for name, value in leaves(load_params(ROOT / "params.yaml").model_dump()) if isinstance(value, bool)
    ]
    assert len([field for field in fields if field.get("enum") == [True, False]]) == len(booleans)
    validate({"params": {"model": {"bias": True}}}, schema, raise_on_error=True)
    with pytest.raises(ValidationError):
        validate({"params": {"model": {"bias": "yes"}}}, schema, raise_on_error=True)


def test_fields_and_text_become_one_line_in_which_the_text_wins() -> None:
    params = {"evaluate": {"prompt": "it's $1", "temperatures": [0.5]}, "run": {"seed": 1}, "moe": {"n_head": None}}
    line = as_overrides(params, "run.seed=2")
    loaded = load_params(ROOT / "params.yaml", split_overrides(line))
    assert (loaded.evaluate.prompt, loaded.evaluate.temperatures, loaded.moe.n_head) == ("it's $1", [0.5], None)
    assert loaded.run.seed == 2


def test_a_section_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    alone = params_form("evaluate").model_dump(exclude_unset=True)
    validate({"params": {"evaluate": {"top_k": 5}}, "overrides": "evaluate.top_k=5"}, alone, True)
    for other in ({"params": {"run": {"seed": 1}}}, {"overrides": "run.seed=1"}, {"profile": "cpu-hours"}):
        with pytest.raises(ValidationError):
            validate(other, alone, raise_on_error=True)


def test_without_params_yaml_and_profiles_the_form_lacks_only_their_help(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    bare = params_form().model_dump(exclude_unset=True)
    assert "profile" not in bare["properties"]
    assert "description" not in bare["definitions"]["run"]["properties"]["seed"]


def test_a_form_of_nothing_refuses_everything() -> None:
    with pytest.raises(ValidationError):
        validate({"x": 1}, form({}).model_dump(exclude_unset=True), raise_on_error=True)
