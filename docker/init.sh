#!/bin/sh
# Make the secrets of the stack: `make init`. Those that are there stay, for the databases have them too.
set -eu
cd "$(dirname "$0")"

umask 077
touch .env
chmod 600 .env
secret() { # NAME [PREFIX]
    grep -q "^$1=" .env || echo "$1=${2:-}$(od -An -N24 -tx1 /dev/urandom | tr -d ' \n')" >>.env
}
secret POSTGRES_PASSWORD
secret MLFLOW_PASSWORD
secret MLFLOW_READER_PASSWORD
secret MLFLOW_SECRET_KEY
secret PREFECT_AUTH troupe:
echo "docker/.env has the secrets; people are reader in MLflow, with MLFLOW_READER_PASSWORD; Prefect asks for PREFECT_AUTH"
