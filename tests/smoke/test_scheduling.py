"""A workspace that is left alone with `make ui`: runs behind each other, cancelled, mistyped, missed, killed.

The servers, their runner, DVC and the kills are real; the stages take no time, or as long as a test wants.
"""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import chdir, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import psutil
import pytest
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect
from websockets.typing import Subprotocol

from pipelines import sweep
from pipelines.deployments import add_schedule
from pipelines.due import settle
from pipelines.schedule import cron_schedule
from tests.pipelines.small import PYTHON, ROOT, environment, eventually, make
from tests.smoke.ui import command, patiently, plain, ui
from troupe.credentials import TOKEN, USER, base64, with_token
from troupe.errors import TroupeError
from troupe.files import write_json
from troupe.layout import METRICS
from troupe.registry import history

pytestmark = [pytest.mark.slow, pytest.mark.servers]

# Runs until a file appears; every attempt leaves a line.
WORK = "echo $$ >> began; while ! test -e go; do sleep 0.1; done; cp first.txt second.txt\n"
SECONDS_TO_CANCEL = 10
SECONDS_TO_RECOVER = 60
SECONDS_TO_SWEEP = 120
FINAL = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}


@dataclass(frozen=True)
class Site:
    folder: Path
    api: str
    mlflow: str

    @contextmanager
    def client(self) -> Iterator[SyncPrefectClient]:
        """Prefect's own."""
        ours = {PREFECT_API_URL: plain(self.api), PREFECT_API_AUTH_STRING: f"{USER}:{self.secret}"}
        with temporary_settings(ours), get_client(sync_client=True) as client:
            yield client

    @property
    def secret(self) -> str:
        return (self.folder / TOKEN).read_text().strip()

    def ask(self, method: str, path: str, **body: Any) -> Any:
        return patiently(method, f"{self.api}/{path}", **body).json()

    def deployment(self, name: str = "train") -> Any:
        return self.ask("GET", f"deployments/name/{name}/{name}")

    def start(self, deployment: str = "train", **parameters: Any) -> str:
        """What "Run" in the UI does; the id of the flow run."""
        place = f"deployments/{self.deployment(deployment)['id']}/create_flow_run"
        return str(self.ask("POST", place, json={"parameters": parameters})["id"])

    def state(self, run: str) -> Any:
        return self.ask("GET", f"flow_runs/{run}")["state"]

    def states(self, run: str) -> list[str]:
        """The names of all states that it has been in, the first one first."""
        found = self.ask("GET", f"flow_run_states/?flow_run_id={run}")
        return [state["name"] for state in sorted(found, key=lambda state: state["timestamp"])]

    def cancel(self, run: str) -> None:
        """What "Cancel" in the UI does."""
        state = {"type": "CANCELLING", "name": "Cancelling"}
        self.ask("POST", f"flow_runs/{run}/set_state", json={"state": state, "force": True})

    def attempts(self) -> list[int]:
        """The process numbers of the stage's attempts so far."""
        began = self.folder / "began"
        return [int(line) for line in began.read_text().split()] if began.exists() else []

    def unfinished(self) -> int:
        """How many runs MLflow shows as running."""
        wanted = {"experiment_ids": ["1"], "filter": "attributes.status = 'RUNNING'"}
        found = patiently("POST", f"{self.mlflow}/api/2.0/mlflow/runs/search", json=wanted).json()
        return len(found.get("runs", []))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = make(tmp_path_factory.mktemp("site"), WORK)
    shutil.copy(ROOT / "params.yaml", folder)
    shutil.copytree(ROOT / "profiles", folder / "profiles")
    with ui(folder) as servers:
        site = Site(folder, servers["PREFECT_API_URL"], servers["MLFLOW_TRACKING_URI"])
        eventually(lambda: httpx.get(f"{site.api}/deployments/name/rollback/rollback").is_success, 60)
        yield site


@pytest.fixture(autouse=True)
def _from_the_start(site: Site) -> None:
    """The next run has to do its stage."""
    for name in ("go", "began"):
        (site.folder / name).unlink(missing_ok=True)
    (site.folder / "work.sh").write_text(f"# {time.time()}\n{WORK}")


def alive(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


@pytest.mark.parametrize(
    ("parameters", "names"),
    [
        ({"profile": "cpu-hour"}, "cpu-hour"),
        ({"profil": "cpu-hours"}, "profil"),
        ({"params": {"pretrain": {"steps": -1}}}, "params.pretrain.steps"),
        ({"overrides": "pretrain.step=3"}, "overrides"),
    ],
)
def test_a_wrong_parameter_is_refused_before_there_is_a_run(site: Site, parameters: Any, names: str) -> None:
    before = site.ask("POST", "flow_runs/count", json={})
    place = f"{site.api}/deployments/{site.deployment()['id']}/create_flow_run"
    refused = httpx.post(place, json={"parameters": parameters})
    assert refused.status_code == 409
    assert names in refused.json()["detail"]
    assert site.ask("POST", "flow_runs/count", json={}) == before


def test_what_two_parameters_ask_of_each_other_is_one_line_before_any_work(site: Site) -> None:
    run = site.start(params={"model": {"n_head": 5}})
    eventually(lambda: site.state(run)["type"] in FINAL, 60)
    state = site.state(run)
    assert state["type"] == "FAILED"
    assert state["message"].endswith("n_embd (192) must be divisible by n_head (5)")
    assert state["message"].count("\n") == 0
    assert site.attempts() == []


@pytest.mark.security("Prefect and MLflow: a foreign Host or Origin is refused")
@pytest.mark.parametrize(
    "headers",
    [{"Host": "rebound.example"}, {"Origin": "https://page.example"}],
    ids=lambda headers: next(iter(headers)),
)
def test_neither_server_answers_a_foreign_page(site: Site, headers: dict[str, str]) -> None:
    """A page that the user's browser shows, or a name of its own that has come to mean 127.0.0.1."""
    assert httpx.post(f"{site.api}/flow_runs/count", json={}, headers=headers).status_code == 403
    experiment = {"name": "strange"}
    place = f"{site.mlflow}/api/2.0/mlflow/experiments/create"
    assert httpx.post(place, json=experiment, headers=headers).status_code == 403
    pages = [site.api.removesuffix("/api"), site.mlflow]
    assert [httpx.get(page).status_code for page in pages] == [200, 200], "their own pages are there"


@pytest.mark.security("Prefect and MLflow: nothing without the token of the workspace")
@pytest.mark.parametrize("user", [None, (USER, "wrong")], ids=["nobody", "wrong"])
def test_neither_server_answers_without_the_token(site: Site, user: tuple[str, str] | None) -> None:
    api, mlflow = plain(site.api), plain(site.mlflow)
    asked = [
        httpx.post(f"{api}/flow_runs/count", json={}, auth=user),
        httpx.get(f"{api}/admin/settings", auth=user),
        httpx.post(f"{mlflow}/api/2.0/mlflow/experiments/create", json={"name": "strange"}, auth=user),
        httpx.get(f"{mlflow}/", auth=user),
    ]
    assert [answer.status_code for answer in asked] == [401] * 4
    assert [httpx.get(f"{url}/health").status_code for url in (api, mlflow)] == [200, 200], "that they live"
    events = api.replace("http://", "ws://") + "/events/out"
    with connect(events, subprotocols=[Subprotocol("prefect")]) as socket:
        socket.send(json.dumps({"type": "auth", "token": ":".join(user) if user else None}))
        with pytest.raises(ConnectionClosed, match=r"Auth required|Invalid token"):
            socket.recv(timeout=10)
    with pytest.raises(InvalidStatus), connect(events):
        pass


@pytest.mark.security("the token stands in no log, record, page or database, and in nobody's arguments")
def test_the_token_stays_where_it_is(site: Site) -> None:
    (site.folder / "go").touch()
    run = site.start()
    eventually(lambda: site.state(run)["type"] == "COMPLETED", 60)
    for url in (site.api.removesuffix("/api"), site.mlflow):  # as a browser does, right and wrong
        assert httpx.get(with_token(plain(url), site.secret)).is_success
        assert httpx.get(with_token(plain(url), f"{site.secret}x")).status_code == 401
    eventually(lambda: not site.unfinished(), 60)
    forms = [form.encode() for form in (site.secret, base64(f"{USER}:{site.secret}"))]
    files = [path for path in site.folder.rglob("*") if path.is_file() and path != site.folder / TOKEN]
    assert {path.suffix for path in files} >= {".log", ".json", ".db"}
    assert not [path for path in files for form in forms if form in path.read_bytes()]
    lines = [" ".join(process.info["cmdline"] or []) for process in psutil.process_iter(["cmdline"])]
    assert not [line for line in lines for form in forms if form.decode() in line]


@pytest.mark.browser
def test_the_addresses_that_are_printed_let_a_browser_in(site: Site, browser: Any) -> None:
    """In Chromium: one address opens both, and without it neither shows anything."""
    show = [PYTHON, "-m", "pipelines", "address"]
    printed = subprocess.run(show, cwd=site.folder, env=environment(), capture_output=True, text=True, check=True)
    prefect, mlflow = (line.split()[1] for line in printed.stdout.splitlines())
    assert site.secret in prefect
    page, refused = browser.new_context().new_page(), list[str]()
    page.on("response", lambda answer: answer.status in (401, 403) and refused.append(answer.url))
    page.goto(prefect)
    page.wait_for_url("**/dashboard*")
    assert site.secret not in page.url
    page.goto(f"{plain(site.api).removesuffix('/api')}/deployments")
    page.get_by_text("rollback").first.wait_for()
    page.goto(plain(site.mlflow))
    page.get_by_text("Experiments").first.wait_for()
    assert not refused
    stranger = browser.new_context().new_page()
    stranger.goto(f"{plain(site.api).removesuffix('/api')}/deployments")
    stranger.wait_for_url(re.compile("/login"))
    with pytest.raises(Exception, match="ERR_INVALID_AUTH_CREDENTIALS"):  # nobody is there to type a password
        stranger.goto(plain(site.mlflow))
    stranger = browser.new_context().new_page()
    stranger.goto(mlflow)
    stranger.get_by_text("Experiments").first.wait_for()
    page.context.close()


def test_a_promotion_afresh_that_had_to_wait_does_not_take_another_candidate(site: Site) -> None:
    site.start()
    eventually(site.attempts, 60)
    promote = site.start("promote", fresh=True)
    with chdir(site.folder):
        models = {"pretrain": {"weights_sha256": "another"}}
        write_json(METRICS, {"candidate": {"stage": "pretrain"}, "models": models})
    try:
        (site.folder / "go").touch()
        eventually(lambda: site.state(promote)["type"] in FINAL, 60)
    finally:
        (site.folder / METRICS).unlink()
    assert "since this was asked for another candidate has been evaluated" in site.state(promote)["message"]


def test_a_run_whose_process_died_before_it_began_is_tried_again(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else it would count as at work for ever, and others wait for it or are skipped."""
    monkeypatch.setattr(sweep, "MOST_TO_BEGIN", timedelta(0))
    place = f"deployments/{site.deployment()['id']}/create_flow_run"
    tomorrow = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    state = {"type": "SCHEDULED", "state_details": {"scheduled_time": tomorrow}}
    run = str(site.ask("POST", place, json={"state": state})["id"])
    site.ask("POST", f"flow_runs/{run}/set_state", json={"state": {"type": "PENDING"}, "force": True})
    with site.client() as client:
        sweep.end_stuck_flow_runs(client, [UUID(site.deployment()["id"])])
    assert "Crashed" in site.states(run)
    (site.folder / "go").touch()
    eventually(lambda: site.state(run)["type"] == "COMPLETED", 60)


def test_a_rollback_that_had_to_wait_does_not_undo_what_came_meanwhile(site: Site) -> None:
    train = site.start()
    eventually(lambda: site.attempts(), 60)
    rollback = site.start("rollback")
    with chdir(site.folder):
        history.append(history.Entry(history.PROMOTED, "a test", "models:/troupe/1", "models:/troupe/2"))
    (site.folder / "go").touch()
    eventually(lambda: site.state(rollback)["type"] in FINAL, 60)
    assert site.state(train)["type"] == "COMPLETED"
    assert site.state(rollback)["type"] == "FAILED"
    assert "since this was asked for the champion has changed (promoted)" in site.state(rollback)["message"]


@pytest.mark.fault("a run cancelled with others behind it: the next begins within seconds")
def test_behind_a_run_others_wait_or_are_skipped_and_a_cancelled_one_frees_everything(site: Site) -> None:
    first = site.start()
    eventually(site.attempts, 60)
    waits, skips = site.start(profile="cpu-hours"), site.start(when_busy="skip")
    eventually(lambda: site.state(waits)["name"] == "WaitingForWorkspace", 30)
    eventually(lambda: site.state(skips)["name"] == "Skipped", 30)
    assert "is at work" in site.state(waits)["message"]
    for number, run in enumerate((first, waits), start=1):
        eventually(lambda n=number: len(site.attempts()) == n, SECONDS_TO_RECOVER)
        eventually(site.unfinished, 30)
        stage, began = site.attempts()[-1], time.monotonic()
        site.cancel(run)
        eventually(lambda r=run, s=stage: site.state(r)["type"] == "CANCELLED" and not alive(s), SECONDS_TO_CANCEL)
        print(f"cancelled after {time.monotonic() - began:.1f} s")
    began = time.monotonic()
    eventually(lambda: not site.unfinished(), SECONDS_TO_SWEEP)  # without a next run
    print(f"ended in MLflow after {time.monotonic() - began:.1f} s more")


def test_somebody_else_at_work_is_waited_for(site: Site) -> None:
    hold = "import time; from troupe.lock import *\nwith workspace_lock(): print(1, flush=True); time.sleep(99)"
    with subprocess.Popen([PYTHON, "-c", hold], cwd=site.folder, env=environment(), stdout=subprocess.PIPE) as holder:
        assert holder.stdout
        holder.stdout.readline()
        run = site.start("promote")
        eventually(lambda: site.state(run)["name"] == "WaitingForWorkspace", 60)
        assert str(holder.pid) in site.state(run)["message"]
        holder.kill()
    eventually(lambda: site.state(run)["type"] in FINAL, 60)
    state = site.state(run)
    assert state["type"] == "FAILED", "there is nothing to promote"
    assert state["message"].startswith("troupe: ")
    assert "Traceback" not in state["message"]


@pytest.mark.fault("kill -9 of flow, runner, Prefect, MLflow: ended in both, and everything runs again")
def test_kill_9_of_flow_runner_and_servers_and_everything_runs_again(site: Site) -> None:
    run = site.start()
    eventually(site.attempts, 60)
    victims = {
        "flow": lambda: next(
            child for child in command(site.folder, "serve").children() if "spawn_main" in " ".join(child.cmdline())
        ),
        "runner": lambda: command(site.folder, "serve"),
    }
    for number, (name, find) in enumerate(victims.items(), start=2):
        stage, began = site.attempts()[-1], time.monotonic()
        os.kill(find().pid, signal.SIGKILL)
        eventually(lambda n=number: len(site.attempts()) == n, SECONDS_TO_RECOVER)
        print(f"{name}: at work again after {time.monotonic() - began:.1f} s")
        assert not alive(stage), "nobody was left behind"
    assert site.states(run).count("Crashed") == 2

    before = site.attempts()
    killed = {server: command(site.folder, "-m", server).pid for server in ("pipelines.prefect_server", "mlflow")}
    for pid in killed.values():
        os.kill(pid, signal.SIGKILL)
    began = time.monotonic()
    for address in (site.api, site.mlflow):
        with pytest.raises(OSError, match="in use"):  # or others would be sent the token
            socket.create_server(("127.0.0.1", httpx.URL(address).port or 0))
    eventually(lambda: all(command(site.folder, "-m", server).pid != pid for server, pid in killed.items()))
    health = (f"{site.api}/health", f"{site.mlflow}/health")
    eventually(lambda: all(map(answers, health)), SECONDS_TO_RECOVER)
    print(f"servers: answer again after {time.monotonic() - began:.1f} s")
    assert site.attempts() == before, "the training went on meanwhile"
    (site.folder / "go").touch()
    eventually(lambda: site.state(run)["type"] in FINAL, SECONDS_TO_RECOVER)
    assert site.state(run)["type"] == "COMPLETED", site.state(run)
    eventually(lambda: not site.unfinished(), SECONDS_TO_SWEEP)


def answers(url: str) -> bool:
    try:
        return httpx.get(url).is_success
    except httpx.HTTPError:
        return False


@pytest.mark.fault("the machine off over scheduled times: made up for as the schedule says")
def test_missed_times_are_made_up_for_as_the_schedule_says(site: Site) -> None:
    """The real planner's runs of five hours, looked at as if those had passed with the machine off."""
    id_, now = site.deployment()["id"], datetime.now(UTC)
    planned = {"state": {"type": {"any_": ["SCHEDULED"]}}, "deployment_id": {"any_": [id_]}}
    due = {**planned, "next_scheduled_start_time": {"before_": (now + timedelta(hours=5)).isoformat()}}

    def left() -> Counter[str]:
        found = site.ask("POST", "flow_runs/filter", json={"flow_runs": due})
        return Counter(run["parameters"]["catch_up"] for run in found)

    with site.client() as client:
        with pytest.raises(TroupeError, match="'catch_up'"):
            add_schedule(cron_schedule("0 * * * *"), {"catch_up": "sometimes"})
        for number, catch_up in enumerate(("never", "once", "all"), start=20):
            hourly = cron_schedule(f"{(now.minute + number) % 60} * * * *", "Europe/Berlin")
            add_schedule(hourly, {"catch_up": catch_up})
        eventually(lambda: left() == {"never": 5, "once": 5, "all": 5}, 90)
        settle(client, [UUID(id_)], now + timedelta(hours=5))
    assert left() == {"once": 1, "all": 5}
    for made in site.deployment()["schedules"]:
        assert made["schedule"]["timezone"] == "Europe/Berlin"
        patiently("DELETE", f"{site.api}/deployments/{id_}/schedules/{made['id']}")
