#!/bin/sh
# Make the workspace usable in this container, then become the command.
set -eu

# DVC looks for git unless told not to, and a workspace that was copied without its history has none.
# (The lock that a dvc leaves behind when its container is killed is not cleared here but by pipelines/workspace.py,
# which knows whether another container is at work in this workspace.)
if [ ! -e .git ]; then
    dvc config --local core.no_scm true
fi

exec "$@"
