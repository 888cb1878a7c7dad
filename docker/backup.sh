#!/bin/sh
# What a loss of the volumes and the workspace would lose, into a folder, and back: `make backup`, `make restore`.
#   docker/backup.sh save FOLDER       while the stack runs: databases, MLflow's files, what the workspace has of its own
#   docker/backup.sh restore FOLDER    into a new stack (`make up`) with nothing in it and a workspace of the same code
# COMPOSE is the command with its options that reaches the stack.
set -eu

what=${1:?save or restore}
folder=${2:?a folder}
: "${COMPOSE:?the compose command with its options}"
databases="mlflow mlflow_auth prefect"
own=".dvc/cache .dvc/config.local dvc.lock data artifacts reports .troupe/runs .troupe/history.jsonl"
service=${SERVICE:-trainer-cpu}

in_service() { # SERVICE COMMAND...
    name=$1
    shift
    # shellcheck disable=SC2086  # COMPOSE is several words
    $COMPOSE exec -T "$name" "$@"
}

case $what in
save)
    umask 077
    mkdir -p "$folder"
    for database in $databases; do
        in_service postgres pg_dump --host=127.0.0.1 --username=troupe --format=custom "$database" >"$folder/$database.dump"
    done
    in_service mlflow sh -c 'mkdir -p artifacts && exec tar --create artifacts' >"$folder/mlflow.tar"
    in_service "$service" sh -c "exec tar --create \$(ls -d $own 2>/dev/null)" >"$folder/workspace.tar"
    echo "saved in $folder"
    ;;
restore)
    # shellcheck disable=SC2086
    $COMPOSE stop mlflow prefect "$service"
    for database in $databases; do
        in_service postgres pg_restore --host=127.0.0.1 --username=troupe --clean --if-exists --exit-on-error \
            --dbname="$database" <"$folder/$database.dump"
    done
    # shellcheck disable=SC2086
    $COMPOSE start mlflow prefect
    in_service mlflow tar --extract <"$folder/mlflow.tar"
    # shellcheck disable=SC2086
    $COMPOSE start "$service"
    in_service "$service" tar --extract <"$folder/workspace.tar"
    echo "restored from $folder"
    ;;
*)
    echo "save or restore?" >&2
    exit 2
    ;;
esac
