import inspect
from pathlib import Path
from uuid import uuid4

import pytest
from prefect.client.schemas.objects import DeploymentSchedule
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.schedules import CronSchedule

from pipelines.deployments import DEPLOYMENTS, _schedules

NIGHTLY = "0 3 * * *"
ROOT = Path(__file__).parents[2]


def deployed(*crons: str, active: bool = True, timezone: str | None = None) -> DeploymentResponse:
    about = {"active": active, "parameters": {"overrides": "a.b=1"}}
    schedules = [CronSchedule(cron=cron, timezone=timezone) for cron in crons]
    made = [DeploymentSchedule(id=uuid4(), schedule=schedule, **about) for schedule in schedules]
    return DeploymentResponse(id=uuid4(), name="train", flow_id=uuid4(), schedules=made)


def test_schedules_made_in_the_ui_outlive_the_ui() -> None:
    [kept] = _schedules(deployed(NIGHTLY, active=False), cron=None)
    assert kept.schedule == CronSchedule(cron=NIGHTLY)
    assert not kept.active
    assert kept.parameters == {"overrides": "a.b=1"}


def test_a_schedule_from_the_command_line_is_added_once() -> None:
    nightly = CronSchedule(cron=NIGHTLY, timezone="Europe/Berlin")
    assert _schedules(None, cron=None) == []
    assert [one.schedule for one in _schedules(None, nightly)] == [nightly]
    assert [one.schedule for one in _schedules(deployed("0 4 * * *"), nightly)] == [
        CronSchedule(cron="0 4 * * *"),
        nightly,
    ]


@pytest.mark.parametrize("before", [None, "Europe/Berlin", "America/New_York"])
def test_served_again_a_schedule_is_not_doubled_but_put_into_the_zone_asked_for(before: str | None) -> None:
    nightly = CronSchedule(cron=NIGHTLY, timezone="Europe/Berlin")
    [again] = _schedules(deployed(NIGHTLY, active=False, timezone=before), nightly)
    assert again.schedule == nightly
    assert not again.active, "paused in the UI, it stays paused"
    assert again.parameters == {"overrides": "a.b=1"}


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_what_a_form_offers_is_what_the_flow_takes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    deployment = DEPLOYMENTS[name]
    taken = inspect.signature(deployment.flow.fn).parameters
    offered = deployment.form().properties
    assert set(offered) == set(taken)
    defaults = {key: field["default"] for key, field in offered.items() if "default" in field}
    assert defaults == {key: taken[key].default for key in defaults}
    assert deployment.flow.name == name, "where the flow is looked for: NAME/NAME"
