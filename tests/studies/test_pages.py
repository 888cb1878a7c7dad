"""The tables of the pages that are kept are what today's code makes of the records beside them."""

import json
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from studies.adversarial.page import tables as adversarial
from studies.adversarial.settings import Settings as AdversarialSettings
from studies.core.command import STUDIES
from studies.core.configuration import read_configuration
from studies.core.jobs import by_arm
from studies.gan.__main__ import plan as plan_gan
from studies.gan.page import sections as gan
from studies.gan.runs import Run, Runs
from studies.gan.settings import Settings as GanSettings
from studies.moe.__main__ import plan as plan_moe
from studies.moe.page import sections as moe
from studies.moe.settings import Settings as MoeSettings
from studies.oracle.page import sections as oracle
from studies.oracle.settings import Settings as OracleSettings


def kept(study: str) -> tuple[list[str], list[dict[str, Any]]]:
    """The tables of the page, and its records."""
    folder = STUDIES / study / "results"
    lines = (folder / f"{study}.jsonl").read_text().splitlines()
    return tables([(folder / f"{study}.md").read_text()]), [json.loads(line) for line in lines]


def tables(sections: Iterable[str]) -> list[str]:
    """All rows, line by line."""
    return [line for section in sections for line in section.splitlines() if line.startswith("|")]


def of_arms(records: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    found = defaultdict(list)
    for record in records:
        found[record["arm"]].append(record)
    return found


def test_moe() -> None:
    page, records = kept("moe")
    settings = read_configuration(STUDIES / "moe" / "moe.yaml", MoeSettings, quick=False)
    planned = plan_moe(settings, "text", range(1, 1 + settings.seeds))
    found = {(record["arm"], record["seed"]): record for record in records}
    results = by_arm(planned, {job: found[job.arm, job.seed] for jobs in planned.values() for job in jobs})
    assert tables(moe("moe", settings, results)) == page


def test_gan() -> None:
    page, records = kept("gan")
    settings = read_configuration(STUDIES / "gan" / "gan.yaml", GanSettings, quick=False)
    planned = plan_gan(settings, settings.seeds)
    runs = [Run(name, task, seed, record) for (name, task, seed), record in zip(planned, records, strict=True)]
    assert tables(gan("gan", settings, Runs(runs))) == page


def test_oracle() -> None:
    page, records = kept("oracle")
    settings = read_configuration(STUDIES / "oracle" / "oracle.yaml", OracleSettings, quick=False)
    assert tables(oracle("oracle", settings, of_arms(records))) == page


def test_adversarial() -> None:
    """But for what games and tilts cost in MACs, of which they have come to need fewer since; for the verdict, whose
    rule asks for windows that were not recorded then; and for a word about the part `test`."""
    page, records = kept("adversarial")
    for record in records:
        record["detected"] = record.pop("referee", None)  # as it was called then
        if floor := record.get("floor"):  # names the columns, in the order of then
            floor["judges"] = {family: floor["judges"][family] for family in ("linear", "boosted", "neural")}
    settings = read_configuration(STUDIES / "adversarial" / "adversarial.yaml", AdversarialSettings, quick=False)
    of_then = settings.judging.model_copy(update={"few": ["linear", "boosted"]})  # `likelihood` is a family since
    settings = settings.model_copy(update={"judging": of_then})
    made = tables(adversarial(settings, of_arms(records)).values())
    changed = [old for new, old in zip(made, page, strict=True) if new != old]
    assert {row.split(" | ")[0] for row in changed} <= {f"| {name}" for name in (*settings.arms, "test")}
    costs = page.index(next(row for row in page if "10^12 MACs" in row))
    assert changed == [row for row in page[costs:] if row in changed]
