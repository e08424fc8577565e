"""Asks `research.plan` whether a training step fits a slice, before machines are created."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from launch.gcloud import LocalHost
from launch.plan import Plan
from research.common.errors import UserError

_ROOT = Path(__file__).resolve().parents[1]
_TIMEOUT_SECONDS = 1800.0  # the compilation of a large model takes minutes
_GIB = 2**30


def check_fit(plan: Plan, local_host: LocalHost) -> str:
    """Compiles the training step for the plan's slice, with the TPU compiler of this machine.

    Returns:
      What was found: the predicted step time, or why the step could not be compiled here.

    Raises:
      UserError: the step does not fit the slice, or the config is invalid for it.
    """
    if plan.slices > 1:
        return "not predicted: the plan of several slices is that of one"
    config = [text for text in plan.arguments if text.startswith("--config")]
    command = ["-m", "research.plan", "--json", f"--slice={plan.accelerator}", *_absolute(config)]
    environment = _ROOT / ".venv"
    # `env` sets the path of libtpu, which `make plan` installs outside of the environment.
    variables = [f"PYTHONPATH={_ROOT}:{environment}/libtpu"]
    argv = ["env", *variables, str(environment / "bin" / "python"), *command]
    done = local_host.run(argv, _TIMEOUT_SECONDS)
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    if done.stdout.strip():
        return _verdict(plan, json.loads(done.stdout.splitlines()[-1]))
    if done.returncode == 2 and errors and errors[-1].startswith("error: config."):
        raise UserError(errors[-1].removeprefix("error: "))
    reason = errors[-1].removeprefix("error: ") if errors else f"exit code {done.returncode}"
    return f"not predicted: {reason}"


def _verdict(plan: Plan, found: dict[str, Any]) -> str:
    if found["fits"]:
        return f"{1e3 * found['step_seconds']:.1f} ms per step, {100 * found['mfu']:.0f} % MFU"
    needed, available = found["needed_bytes"] / _GIB, found["hbm_bytes"] / _GIB
    sizes = f": {needed:.1f} GiB of {available:.1f} GiB per device" if needed else ""
    remedy = "`make plan` looks for a change with which it does"
    raise UserError(f"the training step does not fit {plan.accelerator}{sizes}; {remedy}")


def _absolute(config: list[str]) -> list[str]:
    return [
        f"--config={_ROOT / text.removeprefix('--config=')}" if text[8:9] == "=" else text
        for text in config
    ]
