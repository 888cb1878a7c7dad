#!/usr/bin/env bash
# prefect 3.9.1: a runner that gets SIGTERM marks a flow run as Cancelled that has ended as Completed.
#
# `flow.serve()` keeps a run in its list until the process of the run has gone. A process may take a while to go after its
# flow has ended (here an exit handler sleeps; elsewhere libraries unload, logs are sent). SIGTERM in that time, which is
# what stopping a service sends, has Runner.astop cancel "in-flight" runs: CancellationManager.cancel proposes Cancelled
# with force=True (runner/_state_proposer.py, propose_cancelled), and the server overwrites the final state. The history
# then says that work was cancelled which is done. 3.8.8 left such a run Completed: its SIGTERM handler did not get so far.
#
# Seen with prefect 3.9.1 on Python 3.11, Linux:
#   before SIGTERM: COMPLETED
#   after SIGTERM:  CANCELLED Runner is shutting down.
#
# Exits 0 while it is so, 1 once the run stays Completed. PREFECT_VERSION tries another release.
set -euo pipefail
folder=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null || true; wait; rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3}" -m venv venv
venv/bin/python -m pip install --quiet "prefect==${PREFECT_VERSION:-3.9.1}"
export PREFECT_HOME=$folder/home DO_NOT_TRACK=true PREFECT_SERVER_ANALYTICS_ENABLED=false
port=$(venv/bin/python -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
export PREFECT_API_URL=http://127.0.0.1:$port/api

cat >work.py <<'PYTHON'
import atexit, sys, time
from prefect import flow

@flow
def work():
    atexit.register(time.sleep, 60)  # the flow ends now, its process in a minute

if __name__ == "__main__":
    work.serve(name="work", pause_on_shutdown=False)
PYTHON

cat >watch.py <<'PYTHON'
import os, signal, sys, time
from prefect.client.orchestration import get_client
from prefect.exceptions import ObjectNotFound

def until(holds, seconds=120):
    deadline = time.monotonic() + seconds
    while not (found := holds()):
        if time.monotonic() > deadline:
            sys.exit(f"not within {seconds} s")
        time.sleep(0.5)
    return found

with get_client(sync_client=True) as client:
    def deployed():
        try:
            return client.read_deployment_by_name("work/work")
        except ObjectNotFound:
            return None

    run = client.create_flow_run_from_deployment(until(deployed).id)
    state = until(lambda: (now := client.read_flow_run(run.id).state).is_final() and now)
    print("before SIGTERM:", state.type.value)
    os.kill(int(sys.argv[1]), signal.SIGTERM)
    time.sleep(15)
    state = client.read_flow_run(run.id).state
    print("after SIGTERM: ", state.type.value, state.message or "")
    sys.exit(0 if state.type.value == "CANCELLED" else 1)
PYTHON

venv/bin/prefect server start --host 127.0.0.1 --port "$port" --no-ui >server.log 2>&1 &
for _ in $(seq 120); do
    venv/bin/python -c "import urllib.request as u; u.urlopen('$PREFECT_API_URL/health', timeout=2)" 2>/dev/null && break
    sleep 1
done
venv/bin/python work.py >serve.log 2>&1 &
venv/bin/python watch.py $!
