#!/usr/bin/env bash
# Polymath on Google Kubernetes Engine through xpk, for those who have a cluster of it already
# (https://github.com/AI-Hypercomputer/xpk). From the repository's root:
#   launch/xpk.sh --cluster=C --workload=NAME --tpu-type=v5litepod-16 [more flags of xpk] -- \
#     --config=experiments/... --workdir=gs://BUCKET/RUN
# The last commit goes into a container image. On Kubernetes JAX finds the other processes by
# itself. A workload that is taken away starts anew, and the training goes on from the bucket.
set -euo pipefail

xpk=()
while [ $# -gt 0 ] && [ "$1" != -- ]; do
  xpk+=("$1")
  shift
done
if [ $# -lt 2 ]; then
  echo "error: say what to train: launch/xpk.sh [flags of xpk] -- --config=... --workdir=..." >&2
  exit 2
fi
shift
code=$(mktemp -d)
trap 'rm -rf "$code"' EXIT
git archive HEAD | tar -x -C "$code"
# exec: the pod's SIGTERM is for the training, not for a shell around it.
command="pip install --quiet --require-hashes -r requirements-tpu.lock"
command+=" && exec python -m research.train$(printf ' %q' "$@")"
xpk workload create --base-docker-image=python:3.12 --script-dir="$code" --max-restarts=5 \
  "${xpk[@]}" --command="$command"
