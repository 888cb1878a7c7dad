#!/bin/sh
# Print the folder that compose.yaml mounts as the workspace: TROUPE_WORKSPACE of the environment, or else of docker/.env,
# from the folder of compose.yaml on, as compose reads it; without one the repository.
# `workspace.sh --ready` also makes the mount point of the file that hides docker/.env, which an engine would make as root.
set -eu
unset CDPATH
cd "$(dirname "$0")"

line=$(grep -E "^[[:space:]]*(export[[:space:]]+)?TROUPE_WORKSPACE[[:space:]]*=" .env 2>/dev/null | tail -n 1 || true)
case $line in
"" | TROUPE_WORKSPACE=*) ;;
*)
    echo "docker/.env: $line: write TROUPE_WORKSPACE=..., without blanks and without export" >&2
    exit 2
    ;;
esac
named=$(printf %s "${line#TROUPE_WORKSPACE=}" | sed "s/^\([\"']\)\(.*\)\1\$/\2/")
case $named in
*[\$\#]* | *"$(printf '\r')"*)
    echo "docker/.env: TROUPE_WORKSPACE=$named: write the path itself, without a variable, a comment or a carriage return" >&2
    exit 2
    ;;
esac
workspace=${TROUPE_WORKSPACE:-$named}
case ${workspace:-..} in
/* | .*) workspace=${workspace:-..} ;;
"~" | "~/"*) workspace=$HOME${workspace#"~"} ;;
*)
    echo "TROUPE_WORKSPACE=$workspace: write ./$workspace or a whole path; compose takes it for the name of a volume" >&2
    exit 2
    ;;
esac
[ -d "$workspace" ] || { echo "TROUPE_WORKSPACE=$workspace: no such folder, seen from $PWD" >&2 && exit 2; }
if [ "${1:-}" = --ready ] && [ ! -e "$workspace/docker/.env" ]; then
    mkdir -p "$workspace/docker"
    (umask 077 && : >"$workspace/docker/.env")
fi
cd "$workspace"
pwd -P
