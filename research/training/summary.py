"""The facts of a finished training: its time, memory and hardware, and how to repeat it."""

import shlex
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import jax

from research.common.environment import environment, peak_host_bytes
from research.data.sampler import BatchSampler
from research.hardware.chips import cost, peak_flops
from research.hardware.hlo import parse
from research.hardware.mesh import describe
from research.hardware.roofline import count_flops
from research.training.program import Program
from research.training.run import Run


def summarize(run: Run, sampler: BatchSampler, command: Sequence[str]) -> dict[str, Any]:
    """Returns the facts of a run that has finished now, for `summary.json`.

    Args:
      run: the trained run.
      sampler: of its training data.
      command: of the training.
    """
    devices, progress = run.program.mesh.devices, run.progress
    kind = devices.flat[0].device_kind
    facts = {
        "command": shlex.join(command),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "hardware": describe(run.program.mesh),
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(run.state.params)),
        "jax": jax.__version__,
        "environment": environment(),
        "peak_host_bytes": peak_host_bytes(),
    }
    # CPUs have no memory of their own, and report none.
    statistics = [device.memory_stats() or {} for device in jax.local_devices()]
    if peak := max(one.get("peak_bytes_in_use", 0) for one in statistics):
        facts["peak_device_bytes"] = peak
    if (peak := peak_flops(kind)) and progress.seconds:
        flops = progress.step * mean_flops(run.program, sampler)
        facts["mfu"] = flops / progress.seconds / (peak * devices.size)
    facts |= cost(progress.seconds + progress.compile_seconds, kind, devices.size)
    return facts | progress.to_json()


def mean_flops(program: Program, sampler: BatchSampler) -> float:
    """Returns the floating point operations of the products of a step, the mean over an epoch."""
    total = 0.0
    for bucket in sampler.buckets:
        batch = program.batch_shape(bucket.length)
        lowered = program.train_step.lower(program.state_shape, batch)
        total += bucket.num_batches * count_flops(parse(lowered.as_text(dialect="hlo")))
    return total / sampler.batches_per_epoch
