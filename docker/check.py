"""Have the worker of the stack train, then ask MLflow and Prefect what they remember. Standard library only.

`python3 check.py OVERRIDES`, where both servers are published on loopback at MLFLOW_PORT and PREFECT_PORT; without
overrides nothing is trained. Passwords are those of the environment that docker/compose.yaml asks for. Exits
non-zero, saying why, if anything is not as it should be.
"""

import base64
import json
import os
import sys
import time
import urllib.error
import urllib.request
from typing import Any

MLFLOW = f"http://127.0.0.1:{os.environ['MLFLOW_PORT']}"
PREFECT = f"http://127.0.0.1:{os.environ['PREFECT_PORT']}/api"
AUTHORIZATION = {  # as the clients of each server send it
    MLFLOW: f"troupe:{os.environ['MLFLOW_PASSWORD']}",
    PREFECT.removesuffix("/api"): os.environ["PREFECT_AUTH"],
}
READER = f"reader:{os.environ['MLFLOW_READER_PASSWORD']}"  # whom people are in MLflow
ALIAS = "/api/2.0/mlflow/registered-models/alias"
MODEL_VERSIONS = "/api/2.0/mlflow/model-versions/search"
SERVER_SECONDS = 120.0
WORKER_SECONDS = 120.0
TRAIN_SECONDS = 900.0
FINAL = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}
REGISTERED = ("troupe-pretrain", "troupe-moe", "troupe-adversarial")


def main(overrides: str) -> None:
    wait_for_servers()
    shows_pages()
    refuses_strangers()
    people_make_no_name_of_ours_theirs()
    if not overrides:  # a stack that was restored: nothing is to be done
        report(registered())
        people_see_the_champion_and_do_not_move_it()
        return
    run = train(deployment(), overrides)
    if run["state"]["type"] != "COMPLETED":
        sys.exit(f"the flow run ended {run['state']['type']}: {run['state']['message']}")
    print(f"Prefect: flow run {run['name']!r} completed in {run['total_run_time']:.0f} s")
    report(registered())
    people_see_the_champion_and_do_not_move_it()


def report(versions: dict[str, list[str]]) -> None:
    """Print what the registry holds; exit where it lacks a model."""
    if missing := [name for name in REGISTERED if not versions.get(name)]:
        sys.exit(f"MLflow has no version of {', '.join(missing)}")
    print("MLflow:  " + ", ".join(f"{name} {versions[name]}" for name in sorted(versions)))


def wait_for_servers() -> None:
    """Both are asked for their health by the engine, too, but those of a restored stack have just been started."""
    deadline = time.monotonic() + SERVER_SECONDS
    while silent := [url for url in (f"{MLFLOW}/health", f"{PREFECT}/health") if status_of(request_to(url)) != 200]:
        if time.monotonic() > deadline:
            sys.exit(f"{silent[0]} does not answer within {SERVER_SECONDS:.0f} s")
        time.sleep(1)


def shows_pages() -> None:
    """Both servers have a page for a person; Prefect's is missing when it cannot prepare it."""
    for page in (f"{MLFLOW}/", PREFECT.removesuffix("api")):
        if (status := status_of(request_to(page))) != 200:
            sys.exit(f"{page} answers {status}, expected a page")


def refuses_strangers() -> None:
    """MLflow answers this machine and the stack, and no page that a browser was lured to; neither server a stranger."""
    for host, expected in (("mlflow:5000", 200), ("stranger.example", 403)):
        request = request_to(f"{MLFLOW}{MODEL_VERSIONS}")
        request.add_header("Host", host)
        if (status := status_of(request)) != expected:
            sys.exit(f"MLflow answers Host {host} with {status}, expected {expected}")
    for url in (f"{MLFLOW}{MODEL_VERSIONS}", f"{PREFECT}/admin/settings"):
        if (status := status_of(urllib.request.Request(url))) != 401:
            sys.exit(f"{url} answers without a password: {status}, expected 401")


def people_make_no_name_of_ours_theirs() -> None:
    """Before a first run too: the names are there, and nobody's own."""
    body = json.dumps({"name": "troupe"}).encode()
    for method, what, expected in (("POST", "create", 400), ("DELETE", "delete", 403)):
        request = request_to(f"{MLFLOW}/api/2.0/mlflow/registered-models/{what}", body, READER)
        request.method = method
        if (status := status_of(request)) != expected:
            sys.exit(f"MLflow answers a reader who would {what} the model troupe with {status}, expected {expected}")


def people_see_the_champion_and_do_not_move_it() -> None:
    """Whoever is to promote a model does it through the deployment `promote`, whose user alone is let."""
    place = f"{MLFLOW}{ALIAS}"
    champion = ask(f"{place}?name=troupe&alias=champion")["model_version"]["version"]
    move = json.dumps({"name": "troupe", "alias": "champion", "version": champion}).encode()
    remove = json.dumps({"name": "troupe", "alias": "champion"}).encode()
    tries = [("GET", f"{place}?name=troupe&alias=champion", None, 200), ("POST", place, move, 403)]
    for method, url, data, expected in [*tries, ("DELETE", place, remove, 403)]:
        request = request_to(url, data, READER)
        request.method = method
        if (status := status_of(request)) != expected:
            sys.exit(f"MLflow answers {method} of the champion's alias by a reader with {status}, expected {expected}")
    if (status := status_of(request_to(place, move))) != 200:
        sys.exit(f"MLflow does not let the gate's user move the champion: {status}")
    print("MLflow:  reader sees the champion and cannot move it")


def status_of(request: urllib.request.Request) -> int:
    """0 where nobody answers."""
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


def deployment() -> str:
    """The id of the deployment `train`, once the worker has offered it."""
    deadline = time.monotonic() + WORKER_SECONDS
    while time.monotonic() < deadline:
        try:
            return str(ask(f"{PREFECT}/deployments/name/train/train")["id"])
        except urllib.error.HTTPError:
            time.sleep(1)
    sys.exit(f"the worker did not offer the deployment train/train within {WORKER_SECONDS:.0f} s")


def train(deployment: str, overrides: str) -> Any:
    """The finished flow run that Prefect records for this deployment, started as its UI would start it."""
    parameters = {"parameters": {"overrides": overrides}}
    run = ask(f"{PREFECT}/deployments/{deployment}/create_flow_run", parameters)
    deadline = time.monotonic() + TRAIN_SECONDS
    while run["state"]["type"] not in FINAL and time.monotonic() < deadline:
        time.sleep(2)
        run = ask(f"{PREFECT}/flow_runs/{run['id']}")
    return run


def registered() -> dict[str, list[str]]:
    """The versions that MLflow's registry holds of each model."""
    versions: dict[str, list[str]] = {}
    for version in ask(f"{MLFLOW}{MODEL_VERSIONS}").get("model_versions", []):
        versions.setdefault(version["name"], []).append(version["version"])
    return versions


def ask(url: str, body: object = None) -> Any:
    """The JSON that a GET, or with a body a POST, is answered with."""
    data = None if body is None else json.dumps(body).encode()
    request = request_to(url, data)
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


def request_to(url: str, data: bytes | None = None, user: str = "") -> urllib.request.Request:
    """A request with a user's name and password, by default those of the server's own clients."""
    given = user or next(given for server, given in AUTHORIZATION.items() if url.startswith(server))
    header = f"Basic {base64.b64encode(given.encode()).decode()}"
    return urllib.request.Request(url, data, {"Content-Type": "application/json", "Authorization": header})


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "")
