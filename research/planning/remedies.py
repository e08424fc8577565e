"""Changes of an experiment that need less memory, tried by compiling."""

import dataclasses
from collections.abc import Iterator

from research.common.errors import ConfigError
from research.hardware.slices import TpuSlice
from research.planning.plan import Plan, Subject, plan
from research.training.experiment import Experiment


def find_remedy(subject: Subject, tpu_slice: TpuSlice) -> tuple[str, Plan] | None:
    """Returns the first change of the config with which a training step fits, and its plan.

    The changes that keep the result come first: parts of a batch, sharded parameters.
    """
    for change, experiment in _candidates(subject.experiment, tpu_slice.num_devices):
        try:
            result = plan(dataclasses.replace(subject, experiment=experiment), tpu_slice)
        except ConfigError:  # the batch cannot be split this way
            continue
        if result.fits:
            return change, result
    return None


def _candidates(experiment: Experiment, devices: int) -> Iterator[tuple[str, Experiment]]:
    parts = experiment.gradient_accumulation_steps
    for factor in (2, 4, 8):
        yield (
            f"--config.gradient_accumulation_steps={parts * factor}",
            dataclasses.replace(experiment, gradient_accumulation_steps=parts * factor),
        )
    if devices > 1 and experiment.mesh.fsdp == 1:
        mesh = dataclasses.replace(experiment.mesh, fsdp=devices)
        yield f"--config.mesh.fsdp={devices}", dataclasses.replace(experiment, mesh=mesh)
    for divisor in (2, 4, 8):
        if (size := experiment.batch_size // divisor) >= devices:
            yield f"--config.batch_size={size}", dataclasses.replace(experiment, batch_size=size)
