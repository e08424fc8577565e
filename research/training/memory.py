"""Whether the training step fits the memory of the devices; checked before anything is written."""

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
    if needed > available:
        sizes = f"a step needs {needed / 1e9:,.1f} GB of memory, {available / 1e9:,.1f} GB are free"
        problem = f"invalid value {program.experiment.batch_size}: {sizes}; {SAVE_MEMORY}"
        raise ConfigError("batch_size", problem)
