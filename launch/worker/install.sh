#!/usr/bin/env bash
# Makes the environment of a worker from the lock file, with uv and a Python of its own: the
# machines' images ship an older one. Run twice it does no harm.
#   install.sh [gs://BUCKET/tensorflow_datasets]
set -euo pipefail
R=${POLYMATH_ROOT:-/var/lib/polymath}
PYTHON=3.12
UV=0.13.9
export UV_PYTHON_INSTALL_DIR=$R/python UV_CACHE_DIR=$R/cache PATH=$R/uv/bin:$PATH

# Packages and data may take longer than the lease; the timer sees that somebody is at work.
while touch "$R/lease"; do sleep 30; done &
trap 'kill $!' EXIT

command -v uv > /dev/null || python3 -m pip install --quiet --target="$R/uv" "uv==$UV"
uv venv --quiet --allow-existing --python "$PYTHON" "$R/venv"
uv pip install --quiet --python "$R/venv/bin/python" --require-hashes \
  -r "$R/code/requirements-tpu.lock"
if [ -n "${1:-}" ]; then
  mkdir -p "$R/data"
  gcloud storage rsync --recursive --quiet "$1" "$R/data"
fi
touch "$R/ready"
