"""The Prefect deployment `train`: what a person starts, schedules and gives parameters to in the UI."""

from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
from prefect.types.entrypoint import EntrypointType

from pipelines.train import train

ONE_AT_A_TIME = ConcurrencyLimitConfig(limit=1, collision_strategy=ConcurrencyLimitStrategy.ENQUEUE)


def serve_train(cron: str | None) -> None:
    """Wait for runs of `train` and run each in a process of its own, until stopped."""
    train.serve(
        name="train",
        cron=cron,
        global_limit=ONE_AT_A_TIME,
        pause_on_shutdown=False,  # a schedule made in the UI still stands when `make ui` is started again
        print_starting_message=False,
        entrypoint_type=EntrypointType.MODULE_PATH,  # the workspace need not be the folder of this code
        tags=["troupe"],
    )
