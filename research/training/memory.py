"""Whether the training step fits the memory of the devices; checked before anything is written."""

import math

import jax
from jax.stages import Compiled

from research.common.errors import SAVE_MEMORY, ConfigError
from research.hardware.memory import available_bytes, needed_bytes
from research.training.program import Program


def check_memory(program: Program, step: Compiled) -> None:
    """Checks that a compiled training step fits, as Linux kills a process that exceeds its memory.

    Args:
      program: the program of the step.
      step: the step, compiled for its longest examples.

    Raises:
      ConfigError: it needs more memory than there is.
    """
    devices = program.mesh.local_devices
    sharing = len(devices) if devices[0].platform == "cpu" else 1  # emulated devices share it
    needed, available = needed_bytes(step) * sharing, available_bytes(devices[0])
    state = _state_bytes(program) * sharing
    if state > available:
        problem = f"parameters and optimizer need {_gigabytes(state, available)}"
        raise ConfigError("task.model", f"{problem}; choose a smaller model, or raise mesh.fsdp")
    if needed > available:
        problem = f"a step needs {_gigabytes(needed, available)}; {SAVE_MEMORY}"
        size = program.experiment.batch_size
        raise ConfigError("batch_size", f"invalid value {size}: {problem}")


def _state_bytes(program: Program) -> int:
    """Returns the memory of the training state on each device."""
    leaves = jax.tree.leaves(program.state_shape), jax.tree.leaves(program.shardings)
    return sum(
        math.prod(sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf, sharding in zip(*leaves, strict=True)
    )


def _gigabytes(needed: float, available: float) -> str:
    return f"{needed / 1e9:,.1f} GB of memory, and {available / 1e9:,.1f} GB are free"
