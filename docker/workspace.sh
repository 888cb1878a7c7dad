#!/bin/sh
# Print the folder that compose.yaml mounts as the workspace: TROUPE_WORKSPACE of the environment, or else of docker/.env,
# from the folder of compose.yaml on, as compose reads it; without one the repository.
# `workspace.sh --ready` also makes the mount point of the file that hides docker/.env, which an engine would make as root.
set -eu
cd "$(dirname "$0")"

workspace=${TROUPE_WORKSPACE:-$(sed -n "s/^TROUPE_WORKSPACE=//p" .env 2>/dev/null | tail -n 1 | sed "s/^\([\"']\)\(.*\)\1\$/\2/")}
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
