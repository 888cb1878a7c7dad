#!/bin/sh
# What a loss of the volumes and the workspace would lose, into a folder, and back: `make backup`, `make restore`.
#   docker/backup.sh save FOLDER       while the stack runs: secrets, databases, MLflow's files, what the workspace has of its own
#   docker/backup.sh restore FOLDER    into a new stack (`make up`) with nothing in it and a workspace of the same code
# The secrets come first: put docker/.env back before `make up`, for the databases know the passwords of then.
# COMPOSE is the command with its options that reaches the stack.
set -eu

what=${1:?save or restore}
folder=${2:?a folder}
: "${COMPOSE:?the compose command with its options}"
databases="mlflow mlflow_auth prefect"
own=".dvc/cache .dvc/config.local dvc.lock data artifacts reports .troupe/runs .troupe/history.jsonl"
service=${SERVICE:-trainer-cpu}
secrets=${SECRETS:-docker/.env}

in_service() { # SERVICE COMMAND...
    name=$1
    shift
    # shellcheck disable=SC2086  # COMPOSE is several words
    $COMPOSE exec -T "$name" "$@"
}

fail() {
    echo "backup: $*" >&2
    exit 1
}

outside_the_workspace() { # the trainer reads all that lies in there
    workspace=$("$(dirname "$0")/workspace.sh")
    mkdir -p "$(dirname "$folder")"
    case $(cd "$(dirname "$folder")" && pwd -P)/ in
    "$workspace"/*)
        fail "$folder lies in the workspace, which the trainer reads, and a backup has the stack's passwords; name another"
        ;;
    esac
}

case $what in
save)
    outside_the_workspace
    umask 077
    new="$folder.new" # a backup that fails leaves the one before it as it is
    rm -rf "$new"
    mkdir -p "$new"
    if [ -f "$secrets" ]; then cp "$secrets" "$new/env"; fi
    for database in $databases; do
        in_service postgres pg_dump --host=127.0.0.1 --username=troupe --format=custom "$database" >"$new/$database.dump"
    done
    in_service mlflow sh -c 'mkdir -p artifacts && exec tar --create artifacts' >"$new/mlflow.tar"
    # A training writes meanwhile: tar says so with 1; whatever it is, the next run makes it whole.
    in_service "$service" sh -c "tar --create \$(ls -d $own 2>/dev/null) || [ \$? = 1 ]" >"$new/workspace.tar"
    rm -rf "$folder"
    mv "$new" "$folder"
    echo "saved in $folder: keep it on another machine; it holds the stack's passwords"
    ;;
restore)
    for file in mlflow.dump mlflow_auth.dump prefect.dump mlflow.tar workspace.tar; do
        [ -s "$folder/$file" ] || fail "$folder/$file is missing or empty; nothing was changed"
    done
    runs=$(in_service postgres psql --host=127.0.0.1 --username=troupe --dbname=mlflow --tuples-only --no-align \
        --command='select count(*) from runs' 2>/dev/null || echo 0)
    [ "$runs" = 0 ] || [ "${FORCE:-}" = 1 ] || fail "this stack's MLflow has $runs runs, which a restore replaces; FORCE=1 does it"
    # shellcheck disable=SC2086
    $COMPOSE stop mlflow prefect "$service"
    for database in $databases; do
        in_service postgres pg_restore --host=127.0.0.1 --username=troupe --clean --if-exists --single-transaction \
            --dbname="$database" <"$folder/$database.dump" || fail "$database was left as it was; the services are stopped"
    done
    # The workspace before its worker, which else begins with what is due.
    # shellcheck disable=SC2086
    $COMPOSE run --rm --no-deps -T --entrypoint tar "$service" --extract <"$folder/workspace.tar"
    # shellcheck disable=SC2086
    $COMPOSE start mlflow prefect
    in_service mlflow tar --extract <"$folder/mlflow.tar"
    # shellcheck disable=SC2086
    $COMPOSE start "$service"
    echo "restored from $folder"
    ;;
*)
    echo "save or restore?" >&2
    exit 2
    ;;
esac
