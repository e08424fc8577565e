"""Measures the training step of an experiment on the devices at hand, and its input pipeline."""

import dataclasses
import math
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Self

import jax
import jax.numpy as jnp

from research.hardware.chips import chip_of
from research.hardware.hlo import parse
from research.hardware.mesh import describe
from research.hardware.roofline import count_flops
from research.training.experiment import Experiment
from research.training.input import input_pipeline
from research.training.lengths import Lengths
from research.training.program import Program
from research.training.run import resolve

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
    """What was measured, over all devices together."""

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
    batches = data.batches(0, 3 * steps)
    first = next(batches)
    shape = {name: jax.ShapeDtypeStruct(array.shape, array.dtype) for name, array in first.items()}
    lowered = program.train_step.lower(program.state_shape, shape)
    begin = time.perf_counter()
    compiled = lowered.compile()
    compile_seconds = time.perf_counter() - begin
    state = program.initialize()
    state, alone = _steps(compiled, state, lambda: first, steps)
    inputs = [_timed(lambda: jax.block_until_ready(next(batches)))[1] for _ in range(steps)]
    waiting, training, state = _train(program, state, batches, steps)
    dtype = jnp.dtype(getattr(experiment.task, "dtype", "float32"))
    devices = program.mesh.devices
    chip = chip_of(devices.flat[0].device_kind)
    peak = chip.bf16_tflops * 1e12 / chip.devices_per_chip if chip else 0.0
    return Benchmark(
        hardware=describe(program.mesh),
        batch_size=len(first["index"]),
        compile_seconds=compile_seconds,
        step=Spread.of(alone),
        input=Spread.of(inputs),
        training=Spread.of(training),
        wait_fraction=sum(waiting) / sum(training),
        flops=count_flops(parse(lowered.as_text(dialect="hlo"))),
        product_flops_per_second=devices.size * product_ceiling(dtype),
        copy_bytes_per_second=devices.size * copy_ceiling(),
        peak_flops_per_second=devices.size * peak,
    )


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


def _steps(
    step: Callable[..., Any], state: Any, batch: Callable[[], Any], count: int
) -> tuple[Any, list[float]]:
    seconds = []
    for _ in range(count):
        one = batch()
        (state, _), elapsed = _timed(lambda: jax.block_until_ready(step(state, one)))  # noqa: B023
        seconds.append(elapsed)
    return state, seconds


def _train(
    program: Program, state: Any, batches: Iterator[Any], count: int
) -> tuple[list[float], list[float], Any]:
    """Returns the times of waiting for a batch and of whole steps; batches of any bucket."""
    waiting, training = [], []
    for _ in range(count - 1):
        batch, waited = _timed(lambda: next(batches))
        (state, _), elapsed = _timed(
            lambda: jax.block_until_ready(program.train_step(state, batch))  # noqa: B023
        )
        waiting.append(waited)
        training.append(waited + elapsed)
    return waiting, training, state


def _timed(function: Callable[[], Any]) -> tuple[Any, float]:
    begin = time.perf_counter()
    result = function()
    return result, time.perf_counter() - begin
