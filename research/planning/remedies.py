"""Changes of an experiment that need less memory, tried by compiling."""

import dataclasses
from collections.abc import Iterator

from research.common.errors import ConfigError
from research.common.overrides import with_changes
from research.hardware.compiler import CompilerFailure
from research.hardware.slices import TpuSlice
from research.planning.plan import Plan, Subject, plan
from research.training.experiment import Experiment


def find_remedy(subject: Subject, tpu_slice: TpuSlice) -> tuple[str, Plan] | None:
    """Returns the first change of the config with which a training step fits, and its plan.

    The changes that keep the result come first: parts of a batch, sharded parameters.
    """
    for change in _candidates(subject.experiment, tpu_slice.num_devices):
        try:
            experiment = with_changes(subject.experiment, [change])
            result = plan(dataclasses.replace(subject, experiment=experiment), tpu_slice)
        except (ConfigError, CompilerFailure):  # such as a batch that cannot be split this way
            continue
        if result.fits:
            return f"--config.{change}", result
    return None


def _candidates(experiment: Experiment, devices: int) -> Iterator[str]:
    for factor in (2, 4, 8):
        parts = experiment.gradient_accumulation_steps * factor
        yield f"gradient_accumulation_steps={parts}"
    if devices > 1 and experiment.mesh.fsdp == 1:
        yield f"mesh.fsdp={devices}"
    for divisor in (2, 4, 8):
        if (size := experiment.batch_size // divisor) >= devices:
            yield f"batch_size={size}"
