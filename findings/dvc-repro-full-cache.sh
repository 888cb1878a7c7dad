#!/usr/bin/env bash
# `dvc repro` exits with 0 and writes dvc.lock although the files of an output folder did not fit into the cache.
# With a single file as output it exits with 255.
#
# Where: DVC 3.67.1. The cache lies on a file system of 64 kB, which the output of 8 x 90 kB fills.
# Seen:  "ERROR: failed to transfer ... [Errno 28] No space left on device" for each file, then "Updating lock file",
#        exit status 0. `dvc status` says afterwards that the output is not in the cache.
# Why it matters: a scheduler takes the stage for done, and what was computed cannot be restored.
#
# Needs the right to mount a tmpfs: root, or user namespaces (util-linux's unshare).
# Exits with 0 while DVC behaves so, with 1 when it does not any more.
set -euo pipefail
if [ "$(id -u)" != 0 ]; then exec unshare --user --map-root-user --mount "$0" "$@"; fi
folder=$(mktemp -d)
trap 'umount "$folder/cache" 2>/dev/null || true; rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check 'dvc==3.67.1' 2>/dev/null
export DVC_NO_ANALYTICS=1 PATH="$folder/venv/bin:$PATH"
mkdir "$folder/cache" "$folder/repo"
mount -t tmpfs -o size=64k tmpfs "$folder/cache"
cd "$folder/repo"
dvc init --quiet --no-scm
dvc config cache.dir "$folder/cache"
cat > dvc.yaml <<'YAML'
stages:
  folder:
    cmd: mkdir -p out && for n in 1 2 3 4 5 6 7 8; do head -c 90000 /dev/urandom > out/$n; done
    outs: [out]
YAML
status=0
dvc repro > log 2>&1 || status=$?
echo "dvc $(dvc --version): exit status $status, $(grep -c 'Errno 28' log) files failed, dvc.lock $([ -e dvc.lock ] && echo written || echo absent)"
dvc status | head -5
[ "$status" = 0 ] && [ -e dvc.lock ] && grep -q 'Errno 28' log && dvc status | grep -q 'not in cache'
