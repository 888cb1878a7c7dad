#!/bin/sh
# Make the databases if there are none yet, then become PostgreSQL's server.
set -eu

data=/var/lib/postgres/data
if [ ! -e "$data/made" ]; then
    rm -rf "$data" # of a start that was cut short
    : "${PGPASSWORD:?is the password of the user troupe}"
    printenv PGPASSWORD | initdb --pgdata "$data" --username=troupe --pwfile=/dev/stdin --auth=scram-sha-256 --encoding=UTF8
    for database in mlflow mlflow_auth prefect; do
        echo "create database $database;"
    done | postgres --single -D "$data" -c exit_on_error=true postgres
    echo "host all troupe all scram-sha-256" >>"$data/pg_hba.conf" # the other services, with the password
    touch "$data/made"
fi

exec postgres -D "$data" -c listen_addresses='*' -c unix_socket_directories=/tmp
