"""Measures the training step of an experiment on the devices at hand, and its input pipeline."""

import dataclasses
import math
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

import jax
import jax.numpy as jnp

from research.common.progress import activity
from research.data.pipeline import PREFETCH
from research.hardware.chips import peak_flops
from research.hardware.hlo import parse
from research.hardware.mesh import describe
from research.hardware.roofline import count_flops
from research.training.experiment import Experiment
from research.training.input import input_pipeline
from research.training.lengths import Lengths
from research.training.memory import check_memory
from research.training.program import Program
from research.training.run import resolve

Step = Callable[[Any, Any], Any]
_CEILING_SECONDS = 1.0
_PRODUCT_SIZE = 2048  # of the square matrices of the measured ceiling
_COPY_BYTES = 2**28


@dataclass(frozen=True)
class Spread:
    """Times in seconds: the median and the quartiles."""

    median: float
    lower: float
    upper: float

    @classmethod
    def of(cls, seconds: list[float]) -> Self:
        """Summarises one or more times."""
        if len(seconds) == 1:
            return cls(seconds[0], seconds[0], seconds[0])
        lower, median, upper = statistics.quantiles(seconds, n=4)
        return cls(median, lower, upper)


@dataclass(frozen=True)
class Benchmark:
    """Measured times and rates, over all devices together."""

    hardware: str
    batch_size: int
    compile_seconds: float
    step: Spread
    """The step alone, on a batch that is on the devices."""

    input: Spread
    """Time of a batch of the input pipeline alone, with its reading ahead."""

    training: Spread
    """A step with its input, as in training."""

    wait_fraction: float
    """Part of the training time that the step waits for its batch."""

    flops: float
    """Floating point operations of the products of a step."""

    product_flops_per_second: float
    """The measured ceiling: products of square matrices in the task's dtype."""

    copy_bytes_per_second: float
    """The measured ceiling of the memory: bytes read and written by a copy."""

    peak_flops_per_second: float
    """The specified peak in bfloat16; 0 if the devices are not listed."""

    def to_json(self) -> dict[str, Any]:
        """Returns the fields and what follows from them, as plain values."""
        values = dataclasses.asdict(self)
        values["examples_per_second"] = self.batch_size / self.training.median
        values["flops_per_second"] = self.flops / self.step.median
        values["fraction_of_ceiling"] = (
            self.flops / self.step.median / self.product_flops_per_second
        )
        return values


def benchmark(experiment: Experiment, steps: int) -> Benchmark:
    """Trains for some steps on real batches and measures each part.

    Args:
      experiment: the config.
      steps: number of measured steps, at least 2, of each part.
    """
    experiment = resolve(experiment)
    data = input_pipeline(Program(experiment), experiment.task.training(), training=True)
    sampler = data.sampler
    lengths = Lengths(experiment, sampler.mean_batch_size, sampler.batches_per_epoch)
    program = Program(experiment, lengths.schedule())
    several = len(sampler.buckets) > 1
    lowered = program.lower_train_step(
        sampler.epoch(0)[0].length if several else sampler.buckets[0].length
    )
    with activity("compiling the training step"):
        compiled, compile_seconds = _timed(lowered.compile)
    check_memory(program, compiled)
    batches = data.batches(0, PREFETCH + 4 * steps * len(sampler.buckets))
    first = next(batches)
    # Batches of other lengths would compile another step.
    same = (batch for batch in batches if _shape(batch) == _shape(first))
    state, alone = repeat(compiled, program.initialize(), first, steps)
    for _ in range(PREFETCH):  # read while the steps above ran
        next(batches)
    inputs = [_timed(lambda: jax.block_until_ready(next(batches)))[1] for _ in range(steps)]
    waiting, training = _train(compiled, state, same, steps)
    platform = program.mesh.devices.flat[0].platform
    count = 1 if platform == "cpu" else program.mesh.devices.size  # emulated devices share a CPU
    return Benchmark(
        hardware=describe(program.mesh),
        batch_size=len(first["index"]),
        compile_seconds=compile_seconds,
        step=Spread.of(alone),
        input=Spread.of(inputs),
        training=Spread.of(training),
        wait_fraction=sum(waiting) / sum(training),
        flops=count_flops(parse(lowered.as_text(dialect="hlo"))),
        product_flops_per_second=count * product_ceiling(_dtype(experiment)),
        copy_bytes_per_second=count * copy_ceiling(),
        peak_flops_per_second=_peak(program),
    )


def _dtype(experiment: Experiment) -> Any:
    return jnp.dtype(getattr(experiment.task, "dtype", "float32"))


def _peak(program: Program) -> float:
    devices = program.mesh.devices
    return devices.size * (peak_flops(devices.flat[0].device_kind) or 0.0)


def _shape(batch: Any) -> dict[str, jax.ShapeDtypeStruct]:
    return {name: jax.ShapeDtypeStruct(array.shape, array.dtype) for name, array in batch.items()}


def product_ceiling(dtype: Any) -> float:
    """Measures the operations per second of a device in products of square matrices."""
    matrix = jnp.full((_PRODUCT_SIZE, _PRODUCT_SIZE), 1 / _PRODUCT_SIZE, dtype)
    seconds = _best_time(jax.jit(lambda x: x @ x), matrix)
    return 2 * _PRODUCT_SIZE**3 / seconds


def copy_ceiling() -> float:
    """Measures the bytes per second that a device reads and writes in a copy."""
    array = jnp.zeros(_COPY_BYTES // 4, jnp.float32)
    return 2 * _COPY_BYTES / _best_time(jax.jit(lambda x: x + 1), array)


def _best_time(function: Callable[[jax.Array], jax.Array], array: jax.Array) -> float:
    """Returns the shortest time of a call, over about a second."""
    jax.block_until_ready(function(array))
    best, end = math.inf, time.perf_counter() + _CEILING_SECONDS
    while time.perf_counter() < end:
        best = min(best, _timed(lambda: jax.block_until_ready(function(array)))[1])
    return best


def repeat(step: Step, state: Any, batch: Any, count: int) -> tuple[Any, list[float]]:
    """Returns the state after some steps on one batch, and the time of each in seconds."""
    seconds = []
    for _ in range(count):
        (state, _), elapsed = _timed(partial(_blocking, step, state, batch))
        seconds.append(elapsed)
    return state, seconds


def _train(
    step: Step, state: Any, batches: Iterator[Any], count: int
) -> tuple[list[float], list[float]]:
    """Returns the times of waiting for a batch and of whole steps."""
    waiting, training = [], []
    for _ in range(count):
        batch, waited = _timed(lambda: next(batches, None))
        if batch is None:
            break
        (state, _), elapsed = _timed(partial(_blocking, step, state, batch))
        waiting.append(waited)
        training.append(waited + elapsed)
    return waiting, training


def _blocking(step: Step, state: Any, batch: Any) -> Any:
    return jax.block_until_ready(step(state, batch))


def _timed(function: Callable[[], Any]) -> tuple[Any, float]:
    begin = time.perf_counter()
    result = function()
    return result, time.perf_counter() - begin
