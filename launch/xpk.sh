#!/usr/bin/env bash
# Polymath on Google Kubernetes Engine through xpk, on an existing cluster
# (https://github.com/AI-Hypercomputer/xpk). From the repository's root:
#   launch/xpk.sh --cluster=C --workload=NAME --tpu-type=v5litepod-16 [more flags of xpk] -- \
#     --config=experiments/... --workdir=gs://BUCKET/RUN
# It builds a container image of the last commit. On Kubernetes JAX finds the other processes itself.
# A preempted workload restarts, and the training resumes from the bucket.
set -euo pipefail

xpk=()
while [ $# -gt 0 ] && [ "$1" != -- ]; do
  xpk+=("$1")
  shift
done
if [ $# -lt 2 ]; then
  echo "error: missing arguments of the training: launch/xpk.sh [flags of xpk] -- --config=... --workdir=..." >&2
  exit 2
fi
shift
code=$(mktemp -d)
trap 'rm -rf "$code"' EXIT
git archive HEAD | tar -x -C "$code"
# exec: the training must receive the pod's SIGTERM instead of the shell.
command="pip install --quiet --require-hashes -r requirements-tpu.lock"
command+=" && exec python -m research.train$(printf ' %q' "$@")"
xpk workload create --base-docker-image=python:3.12 --script-dir="$code" --max-restarts=5 \
  "${xpk[@]}" --command="$command"
