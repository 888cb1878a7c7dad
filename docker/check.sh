#!/usr/bin/env bash
# Prove the containers, in four parts, of which arguments choose some: docker/check.sh images stack
#   images  build what the stack needs, for the CPU
#   tests   run fast tests inside the trainer, as its user, on a read-only root, without a network
#   stack   bring it up, let its worker train a tiny pipeline, ask both servers what they remember (check.py), save all,
#           throw everything away, restore it into nothing, ask again
#   cuda    build the trainer for GPUs and import what it stands on
# Everything is taken down at the end. Needs git, python3 and an engine:
#   docker/check.sh                   Docker with its compose plugin
#   ENGINE=podman docker/check.sh     podman as root, with docker-compose: for a machine without a Docker daemon
# BUILD_FLAGS is added to every build, e.g. BUILD_FLAGS="--no-cache --build-arg TORCH_INDEX= --build-arg PYTHON=my-base".
set -euo pipefail
cd "$(dirname "$0")/.."

ENGINE=${ENGINE:-docker}
PROJECT=troupe-check
OVERRIDES="run.threads=1 model.block_size=64 model.n_layer=2 model.n_embd=64 pretrain.steps=20 moe.steps=4
    judging.seeds=1 judging.texts=20 adversarial.gan.steps=2 adversarial.gan.sequence_length=16 adversarial.gan.prompt_length=8
    adversarial.gan.discriminator.texts=64 adversarial.gan.discriminator.updates=4 adversarial.gan.discriminator.reference.steps=20
    evaluate.stride=32 evaluate.ngram_max_order=3 evaluate.sample_tokens=8"
SCRATCH=$(mktemp -d)
export TROUPE_WORKSPACE=$SCRATCH/workspace MLFLOW_PORT=${MLFLOW_PORT:-15000} PREFECT_PORT=${PREFECT_PORT:-14200}
export POSTGRES_PASSWORD=check-1 MLFLOW_PASSWORD=check-2-of-many MLFLOW_READER_PASSWORD=check-5-of-many MLFLOW_SECRET_KEY=check-3 PREFECT_AUTH=troupe:check-4
TROUPE_UID=$(id -u) TROUPE_GID=$(id -g)
if [ "$TROUPE_UID" = 0 ]; then TROUPE_UID=1000 TROUPE_GID=1000; fi

if [ "$ENGINE" = podman ]; then
    BUILD_FLAGS="--format docker ${BUILD_FLAGS:-}" # the default, OCI, has no place for HEALTHCHECK
    COMPOSE=docker-compose
    export DOCKER_HOST=unix://$SCRATCH/podman.sock
else
    COMPOSE="docker compose"
fi
helpers=() up=no

main() {
    trap finish EXIT
    [ $# != 0 ] || set -- images tests stack cuda
    for part in "$@"; do "check_$part"; done
}

check_images() {
    for target in postgres mlflow prefect trainer-cpu; do build "$target"; done
}

check_tests() {
    build tests
    copy_workspace
    "$ENGINE" run --rm --read-only --tmpfs /tmp:exec --tmpfs /home/troupe --cap-drop ALL --network none \
        --security-opt no-new-privileges --volume "$TROUPE_WORKSPACE:/workspace:ro" \
        --env TROUPE_CACHE=/tmp/cache --env HYPOTHESIS_STORAGE_DIRECTORY=/tmp/hypothesis --entrypoint python \
        troupe-tests -m pytest -p no:cacheprovider --numprocesses auto --dist loadfile -m "not slow" \
        tests/kernels tests/bundles tests/models tests/training tests/judging --ignore tests/training/test_elsewhere.py >"$SCRATCH/tests.log" 2>&1 ||
        { tail -n 60 "$SCRATCH/tests.log" && return 1; }
    say "fast tests inside the trainer: $(tail -n 1 "$SCRATCH/tests.log")"
}

check_cuda() {
    build trainer-gpu
    "$ENGINE" run --rm --read-only --tmpfs /tmp:exec --tmpfs /home/troupe --cap-drop ALL --network none --entrypoint python \
        troupe-trainer-gpu -c '
import dvc, mlflow, prefect, torch
import pipelines.train, troupe.cli, troupe.stages.adversarial
assert torch.version.cuda and torch.backends.cudnn.version()
print(torch.__version__, "CUDA", torch.version.cuda, "cuDNN", torch.backends.cudnn.version())' >"$SCRATCH/cuda.log" 2>&1 ||
        { tail -n 30 "$SCRATCH/cuda.log" && return 1; }
    say "imports of the GPU trainer: $(tail -n 1 "$SCRATCH/cuda.log")"
}

check_stack() {
    copy_workspace
    if [ "$ENGINE" = podman ]; then stand_in_for_a_daemon; fi
    up=yes
    compose up --detach --no-build
    say "the servers are healthy, the worker is started"
    python3 docker/check.py "$OVERRIDES"
    say "trained through the worker"
    compose exec -T trainer-cpu python -m pipelines run --set "$OVERRIDES"
    say "ran again by hand: nothing to do"
    hardened
    keep save
    say "saved, $(du -sm "$SCRATCH/backup" | cut -f1) MB"
    compose down --volumes --timeout 20
    rm -rf "$TROUPE_WORKSPACE"
    copy_workspace
    compose up --detach --no-build
    say "everything thrown away, and up again with nothing"
    keep restore
    python3 docker/check.py
    compose exec -T trainer-cpu python -m pipelines run --set "$OVERRIDES" >"$SCRATCH/again.log"
    tail -n 3 "$SCRATCH/again.log"
    if grep "Running stage" "$SCRATCH/again.log"; then return 1; fi
    say "restored: the registry and the cache have everything, nothing is trained again"
}

keep() { # save or restore
    COMPOSE="$COMPOSE --project-name $PROJECT --file docker/compose.yaml --profile cpu" docker/backup.sh "$1" "$SCRATCH/backup"
}

hardened() { # what the file asks for, seen from inside
    for service in postgres mlflow prefect trainer-cpu; do
        compose exec -T "$service" sh -c '[ "$(id -u)" != 0 ] && ! touch /opt/here 2>/dev/null && ! touch /etc/here 2>/dev/null' ||
            { say "$service is root or can write into its image" && return 1; }
    done
    say "no service is root or can write into its image"
    compose exec -T trainer-cpu sh -c '[ -e docker/.env ] && [ -z "$(cat docker/.env)" ]' ||
        { say "the trainer reads the secrets of the stack" && return 1; }
    say "the trainer does not read the secrets of the stack"
}

build() {
    # shellcheck disable=SC2086  # BUILD_FLAGS is several words
    "$ENGINE" build ${BUILD_FLAGS:-} --file docker/Dockerfile --target "$1" --tag "troupe-$1" \
        --build-arg "TROUPE_UID=$TROUPE_UID" --build-arg "TROUPE_GID=$TROUPE_GID" . >"$SCRATCH/build.log" 2>&1 ||
        { tail -n 30 "$SCRATCH/build.log" && return 1; }
    say "built troupe-$1, $(($("$ENGINE" image inspect --format '{{.Size}}' "troupe-$1") / 1000000)) MB"
}

copy_workspace() { # the files that git knows or would take, without history, owned by the user of the image
    mkdir -p "$TROUPE_WORKSPACE/.dvc/tmp"
    git ls-files -z --cached --others --exclude-standard |
        tar --create --null --files-from=- | tar --extract --directory "$TROUPE_WORKSPACE"
    # What a dvc leaves whose container was killed: it must not hold the next one up.
    echo '{"write": {"/workspace/artifacts/corpus": {"pid": 1, "cmd": "dvc repro"}}}' >"$TROUPE_WORKSPACE/.dvc/tmp/rwlock"
    if [ "$(id -u)" = 0 ]; then chown -R "$TROUPE_UID:$TROUPE_GID" "$TROUPE_WORKSPACE"; fi
    echo "POSTGRES_PASSWORD=$POSTGRES_PASSWORD" >"$TROUPE_WORKSPACE/docker/.env" # as `make init` leaves it there
    chmod 755 "$SCRATCH"
}

stand_in_for_a_daemon() { # what docker-compose talks to, and what makes health checks happen where there is no systemd
    podman system service --time=0 "$DOCKER_HOST" 2>"$SCRATCH/service.log" &
    helpers+=($!)
    while sleep 2; do
        podman ps --quiet --filter "label=com.docker.compose.project=$PROJECT" |
            xargs --no-run-if-empty --max-args=1 podman healthcheck run || true # "not yet" is no reason to stop
    done >"$SCRATCH/health.log" 2>&1 &
    helpers+=($!)
    until [ -S "${DOCKER_HOST#unix://}" ]; do sleep 0.2; done
}

compose() { $COMPOSE --project-name "$PROJECT" --file docker/compose.yaml --profile cpu "$@"; }

finish() {
    status=$?
    if [ $status != 0 ] && [ $up = yes ]; then compose logs --no-color --tail 40 || true; fi
    if [ $up = yes ]; then compose down --volumes --timeout 5 >/dev/null 2>&1 || true; fi
    if [ ${#helpers[@]} != 0 ]; then kill "${helpers[@]}" 2>/dev/null || true; fi
    rm -rf "$SCRATCH"
    if [ $status = 0 ]; then say "passed"; else say "FAILED"; fi
}

say() { printf '%4d s  %s\n' "$SECONDS" "$*"; }

main "$@"
