"""Predicts what a step of an experiment costs on a TPU slice, by compiling it for that slice."""

import dataclasses
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jax.sharding import Mesh
from jax.stages import Lowered

from research.common.config import flatten, to_config_dict
from research.common.errors import UserError, within
from research.hardware import compiler
from research.hardware.chips import Price, list_price
from research.hardware.hlo import parse
from research.hardware.roofline import (
    METHOD,
    Device,
    Estimate,
    Kernel,
    count_flops,
    estimate,
    merged,
)
from research.hardware.slices import TpuSlice
from research.planning.warnings import warnings
from research.training.experiment import Experiment
from research.training.lengths import Lengths
from research.training.program import Program
from research.training.state import InferenceState

log = logging.getLogger(__name__)
UNCERTAINTY = 0.2  # of the predicted time, from the comparison with published times
_NUM_OPERATIONS = 10


@dataclass(frozen=True)
class Plan:
    """Predicted memory and time of a step on each device of a slice."""

    slice: str
    step: str
    """"train" or "predict"."""

    devices: int
    fits: bool
    hbm_bytes: float
    """Memory of a device that programs can use."""

    memory: Mapping[str, float] = field(default_factory=dict)
    """Bytes per device of the state, the batch, temporary arrays and the program."""

    needed_bytes: float = 0.0
    """Bytes per device, the sum of `memory`; if it does not fit, by the compiler's message."""

    flops: float = 0.0
    """Floating point operations of the model's matrix products and convolutions, per device."""

    traffic_bytes: float = 0.0
    """HBM traffic of a device."""

    kernel_seconds: float = 0.0
    collective_seconds: float = 0.0
    bound: Mapping[str, float] = field(default_factory=dict)
    """Seconds of the step by what limits them."""

    collectives: tuple[Mapping[str, Any], ...] = ()
    """Collectives by mesh axes: `axes`, `opcode`, `count`, `bytes` and `seconds`."""

    operations: tuple[Mapping[str, Any], ...] = ()
    """The most expensive operations: `opcode`, `source`, `seconds`, `limit`, `count`."""

    warnings: tuple[str, ...] = ()
    compile_seconds: float = 0.0

    @property
    def step_seconds(self) -> float:
        """Predicted time of a step."""
        return self.kernel_seconds + self.collective_seconds

    def mfu(self, tpu_slice: TpuSlice) -> float:
        """Returns the model FLOPs utilization: products per second as a part of the peak."""
        peak = Device.of(tpu_slice).flops_per_second
        return self.flops / self.step_seconds / peak if self.step_seconds else 0.0


@dataclass(frozen=True)
class Subject:
    """An experiment with all sizes that its step needs.

    Attributes:
      experiment: with its task resolved.
      assumed: config keys whose values come from no data.
      examples: training examples per epoch; None if unknown.
    """

    experiment: Experiment
    assumed: tuple[str, ...]
    examples: int | None

    @property
    def lengths(self) -> Lengths:
        """The durations; of an unknown data set, an epoch counts as 1000 steps."""
        size = self.experiment.batch_size
        epoch = 1000 if self.examples is None else -(-self.examples // size)
        return Lengths(self.experiment, size, epoch)


@dataclass(frozen=True)
class LoweredStep:
    """A step that was traced for the devices of a slice, but not compiled.

    Attributes:
      name: "train" or "predict".
    """

    name: str
    tpu_slice: TpuSlice
    mesh: Mesh
    lowered: Lowered

    @property
    def fingerprint(self) -> str:
        """A hash of all that decides the predicted cost."""
        return f"{compiler.fingerprint(self.lowered, self.tpu_slice)}-{METHOD}"


def subject(experiment: Experiment, examples: int | None = None) -> Subject:
    """Resolves an experiment for planning, with its data or without.

    Args:
      experiment: the config.
      examples: training examples per epoch; None: those of the data, if they are there.
    """
    assumed: tuple[str, ...] = ()
    try:
        with within("task"):
            task = experiment.task.resolve()
        examples = len(task.training()) if examples is None else examples
    except UserError as error:
        log.warning("planning without the data: %s", error)
        task = experiment.task.resolve_without_data()
        assumed = _changed(experiment, dataclasses.replace(experiment, task=task))
    return Subject(dataclasses.replace(experiment, task=task), assumed, examples)


def _changed(before: Experiment, after: Experiment) -> tuple[str, ...]:
    """Returns the config keys whose values differ."""
    old, new = (flatten(to_config_dict(one).to_dict()) for one in (before, after))
    return tuple(key for key in new if new[key] != old.get(key))


def plan(subject: Subject, tpu_slice: TpuSlice, predict: bool = False) -> Plan:
    """Compiles the step of an experiment for a slice and predicts its cost.

    Args:
      subject: the experiment.
      tpu_slice: the slice.
      predict: plan the prediction step instead of the training step.

    Raises:
      ConfigError: the mesh or the batch size do not fit the slice.
      CompilerFailure: the TPU compiler failed.
    """
    return predict_cost(lower_step(subject, tpu_slice, predict))


def predict_cost(step: LoweredStep) -> Plan:
    """Compiles a step and predicts its cost; see `plan`."""
    tpu_slice, mesh, lowered = step.tpu_slice, step.mesh, step.lowered
    num_devices = mesh.devices.size
    result = Plan(
        slice=tpu_slice.name,
        step=step.name,
        devices=num_devices,
        fits=True,
        hbm_bytes=tpu_slice.chip.usable_hbm_gib * 2**30,
        flops=count_flops(parse(lowered.as_text(dialect="hlo"))) / num_devices,
    )
    try:
        compiled = compiler.compile_cached(lowered, tpu_slice)
    except compiler.DoesNotFit as error:
        return dataclasses.replace(result, fits=False, needed_bytes=error.needed)
    hlo = parse(compiled.text)
    costs = estimate(hlo, Device.of(tpu_slice), num_devices)
    return dataclasses.replace(
        result,
        memory=compiled.memory,
        needed_bytes=sum(compiled.memory.values()),
        traffic_bytes=costs.bytes,
        kernel_seconds=costs.kernel_seconds,
        collective_seconds=costs.collective_seconds,
        bound=_bound(costs),
        collectives=tuple(_collectives(costs, mesh)),
        operations=tuple(_operation(kernel) for kernel in merged(costs.kernels)[:_NUM_OPERATIONS]),
        warnings=tuple(warnings(hlo, costs)),
        compile_seconds=compiled.seconds,
    )


def price_of(tpu_slice: TpuSlice) -> Price | None:
    """Returns the highest list price on demand per chip and hour; None if unknown."""
    return list_price(tpu_slice.offers)


def lower_step(subject: Subject, tpu_slice: TpuSlice, predict: bool = False) -> LoweredStep:
    """Traces a step for the devices of a slice; see `plan`."""
    devices = compiler.devices_of(tpu_slice)
    program = Program(subject.experiment, subject.lengths.schedule(), devices)
    # The longest examples need the most memory.
    state, batch = program.state_shape, program.batch_shape(max(program.task.buckets, default=None))
    if not predict:
        lowered = program.train_step.lower(state, batch)
        return LoweredStep("train", tpu_slice, program.mesh, lowered)
    inference = InferenceState(step=state.step, params=state.params, variables=state.variables)
    lowered = program.predict_step.lower(inference, batch)
    return LoweredStep("predict", tpu_slice, program.mesh, lowered)


def _bound(costs: Estimate) -> dict[str, float]:
    """Seconds by what limits them, the largest first."""
    seconds: dict[str, float] = {"interconnect": costs.collective_seconds}
    for kernel in costs.kernels:
        seconds[kernel.limit] = seconds.get(kernel.limit, 0.0) + kernel.seconds
    return dict(sorted(seconds.items(), key=lambda item: -item[1]))


def _collectives(costs: Estimate, mesh: Mesh) -> list[dict[str, Any]]:
    """Sums collectives by the mesh axes that they run over."""
    groups: dict[tuple[str, str], dict[str, Any]] = {}
    for one in costs.collectives:
        axes = _axes(one.group, mesh)
        total = groups.setdefault(
            (axes, one.opcode),
            {"axes": axes, "opcode": one.opcode, "count": 0, "bytes": 0.0, "seconds": 0.0},
        )
        total["count"] += one.repetitions
        total["bytes"] += one.bytes * one.repetitions
        total["seconds"] += one.seconds
    return sorted(groups.values(), key=lambda total: -total["seconds"])


def _axes(group: tuple[int, ...], mesh: Mesh) -> str:
    """Names the mesh axes along which the devices of a group differ."""
    positions = np.array(np.unravel_index(group or range(mesh.devices.size), mesh.devices.shape))
    differ = positions.min(axis=1) != positions.max(axis=1)
    names = [name for name, varies in zip(mesh.axis_names, differ, strict=True) if varies]
    return "+".join(map(str, names)) or "none"


def _operation(kernel: Kernel) -> dict[str, Any]:
    return {
        "opcode": kernel.opcode,
        "source": kernel.source,
        "seconds": kernel.seconds,
        "bytes": kernel.bytes,
        "flops": kernel.flops,
        "limit": kernel.limit,
        "count": kernel.repetitions,
    }
