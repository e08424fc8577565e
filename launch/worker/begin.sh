# Installs the code and its environment on a worker, and starts the training. A VM runs this script at
# its first boot; another run repeats all steps. The launcher prepends the line
# `set -- CODE DATA JOB`, in which DATA and JOB may be empty.
set -euo pipefail
code=$1 data=$2 job=$3
R=${POLYMATH_ROOT:-/var/lib/polymath}
PYTHON=3.12 # the VM images contain an older version
UV=0.13.9
export UV_PYTHON_INSTALL_DIR=$R/python UV_CACHE_DIR=$R/cache PATH=$R/uv/bin:$PATH
exec > "$R/begin.log" 2>&1

rm -rf "$R/ready" "$R/broken" "$R/code"
# Renews the lease, which packages and data may outlast.
for _ in $(seq 120); do kill -0 $$ && touch "$R/lease" && sleep 30 || break; done &
trap 'status=$?; kill $!; [ $status = 0 ] || touch "$R/broken"' EXIT

mkdir -p "$R/code"
gcloud storage cp --quiet "$code" "$R/code.tar.gz"
tar -xzf "$R/code.tar.gz" -C "$R/code"
command -v uv > /dev/null || python3 -m pip install --quiet --target="$R/uv" "uv==$UV"
uv venv --quiet --allow-existing --python "$PYTHON" "$R/venv"
uv pip install --quiet --python "$R/venv/bin/python" --require-hashes \
  -r "$R/code/requirements-tpu.lock"
if [ -n "$data" ]; then
  mkdir -p "$R/data"
  gcloud storage rsync --recursive --quiet "$data" "$R/data"
fi
if [ -n "$job" ]; then
  python3 "$R/code/launch/worker/agent.py" start --job="$job"
fi
touch "$R/ready"
