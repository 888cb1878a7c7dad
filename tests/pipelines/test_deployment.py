from uuid import uuid4

from prefect.client.schemas.objects import DeploymentSchedule
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.schedules import CronSchedule

from pipelines.deployment import _schedules

NIGHTLY = "0 3 * * *"


def deployed(*crons: str, active: bool = True) -> DeploymentResponse:
    about = {"active": active, "parameters": {"overrides": "a.b=1"}}
    made = [DeploymentSchedule(id=uuid4(), schedule=CronSchedule(cron=cron), **about) for cron in crons]
    return DeploymentResponse(id=uuid4(), name="train", flow_id=uuid4(), schedules=made)


def test_schedules_made_in_the_ui_outlive_the_ui() -> None:
    [kept] = _schedules(deployed(NIGHTLY, active=False), cron=None)
    assert kept.schedule == CronSchedule(cron=NIGHTLY)
    assert not kept.active
    assert kept.parameters == {"overrides": "a.b=1"}


def test_a_schedule_from_the_command_line_is_added_once() -> None:
    assert _schedules(None, cron=None) == []
    assert [one.schedule.cron for one in _schedules(None, NIGHTLY)] == [NIGHTLY]
    assert len(_schedules(deployed(NIGHTLY), NIGHTLY)) == 1
    assert len(_schedules(deployed("0 4 * * *"), NIGHTLY)) == 2
