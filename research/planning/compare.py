"""An experiment on one chip of every kind: TPUs, GPUs and CPUs."""

import dataclasses
import logging
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import jax
import jax.numpy as jnp

from research.common.errors import ConfigError
from research.hardware.chips import Price, Processor, chips, processors
from research.hardware.compiler import CompilerFailure
from research.hardware.hlo import parse
from research.hardware.mesh import batch_sharding, describe
from research.hardware.roofline import count_flops
from research.hardware.slices import TpuSlice, one_chip, parse_slice
from research.planning.benchmark import repeat
from research.planning.plan import Plan, Subject, plan, price_of
from research.planning.table import columns
from research.training.memory import check_memory
from research.training.program import Program

log = logging.getLogger(__name__)
COMPILED, ROOFLINE, MEASURED = "compiled", "roofline", "measured"
REFERENCE = "v5e-1"  # whose program gives the operations and the traffic for other processors
_MEASURED_STEPS = 3
_LARGE_STEP = 1e11  # operations
_SMALL_BATCH = 8


@dataclass(frozen=True)
class Cell:
    """An experiment's training step on one chip.

    Attributes:
      chip: such as "v5e-1" or "NVIDIA H100".
      basis: "compiled": by the TPU compiler, with +- 20 %. "roofline": operations and memory
        traffic of the program for TPU v5e at this processor's peaks, which a real program does not
        reach. "measured": on the machine at hand.
      fits: whether the memory suffices.
      examples_per_second: 0 if it does not fit.
      price: the list price per hour; None if unknown.
      watts: power as published; None if unknown.
    """

    chip: str
    basis: str
    fits: bool
    examples_per_second: float
    price: Price | None
    watts: float | None

    @property
    def dollars(self) -> float | None:
        """List price of a million examples."""
        if self.price is None or not self.examples_per_second:
            return None
        return self.price.dollars / 3600 * 1e6 / self.examples_per_second

    @property
    def kilowatt_hours(self) -> float | None:
        """Energy of a million examples, of the chip alone."""
        if self.watts is None or not self.examples_per_second:
            return None
        return self.watts / 3.6e6 * 1e6 / self.examples_per_second

    def to_json(self) -> dict[str, Any]:
        """Returns the fields and what follows from them, as plain values."""
        return asdict(self) | {"dollars": self.dollars, "kilowatt_hours": self.kilowatt_hours}


def compare(subject: Subject) -> Iterator[Cell]:
    """Yields the step of an experiment on one chip of each kind.

    A generation for which the TPU compiler fails is logged and left out.
    """
    reference = None
    for chip in chips():
        tpu = one_chip(chip)
        try:
            result = plan(subject, tpu)
        except CompilerFailure as error:
            log.error("%s: %s", tpu.name, error)
            continue
        reference = result if tpu.name == REFERENCE else reference
        yield compiled(result, tpu, subject.experiment.batch_size)
    if reference is not None and reference.fits:
        for processor in (at_peaks(), *processors()):
            yield bound(reference, processor, subject.experiment.batch_size)


def at_peaks() -> Processor:
    """Returns the reference TPU as a processor, whose bound shows what a bound is worth."""
    tpu = parse_slice(REFERENCE)
    chip = tpu.chip
    return Processor(
        name=f"{REFERENCE} at its peaks",
        tflops=chip.bf16_tflops,
        memory_gb=chip.usable_hbm_gib * 2**30 / 1e9,
        gb_per_s=chip.hbm_gb_per_s,
        watts=chip.watts,
        price=price_of(tpu),
    )


def compiled(result: Plan, tpu: TpuSlice, batch_size: int) -> Cell:
    """Returns the prediction for a TPU chip."""
    rate = batch_size / result.step_seconds if result.fits else 0.0
    return Cell(tpu.name, COMPILED, result.fits, rate, price_of(tpu), tpu.chip.watts)


def bound(reference: Plan, processor: Processor, batch_size: int) -> Cell:
    """Returns the bound that the peaks of a processor set."""
    seconds = max(
        reference.flops / (processor.tflops * 1e12),
        reference.traffic_bytes / (processor.gb_per_s * 1e9),
    )
    fits = reference.needed_bytes <= processor.memory_gb * 1e9
    rate = batch_size / seconds if fits else 0.0
    return Cell(processor.name, ROOFLINE, fits, rate, processor.price, processor.watts)


def measure(subject: Subject) -> Cell:
    """Measures the step on one device of the machine at hand, on a batch of zeros.

    Call it before `plan`, which limits JAX to the CPU. A large step is measured on a CPU with a
    small batch: it would take minutes, and its rate is the same.
    """
    device = jax.local_devices()[:1]
    experiment = subject.experiment
    program = Program(experiment, subject.lengths.schedule(), device)
    length = max(program.task.buckets, default=None)
    lowered = program.lower_train_step(length)
    flops = count_flops(parse(lowered.as_text(dialect="hlo")))
    if device[0].platform == "cpu" and flops > _LARGE_STEP:
        experiment = dataclasses.replace(
            experiment, batch_size=_SMALL_BATCH, batch_length=0, gradient_accumulation_steps=1
        )
        program = Program(experiment, subject.lengths.schedule(), device)
        lowered = program.lower_train_step(length)
    name, step = describe(program.mesh), lowered.compile()
    try:
        check_memory(program, step)
    except ConfigError:
        return Cell(name, MEASURED, False, 0.0, None, None)
    sharding, shapes = batch_sharding(program.mesh), program.batch_shape(length).items()
    batch = {key: jnp.zeros(x.shape, x.dtype, device=sharding) for key, x in shapes}
    _, seconds = repeat(step, program.initialize(), batch, 1 + _MEASURED_STEPS)
    rate = program.batch_size(length) / min(seconds[1:])
    return Cell(name, MEASURED, True, rate, None, None)


def format_cells(cells: Iterable[Cell]) -> str:
    """Returns the comparison as lines of text."""
    rows = [("chip", "basis", "examples/s", "$ per million", "kWh per million")]
    for cell in cells:
        rate = f"{cell.examples_per_second:,.4g}" if cell.fits else "does not fit"
        rows.append(
            (cell.chip, cell.basis, rate, _known(cell.dollars), _known(cell.kilowatt_hours))
        )
    return "\n".join(columns(rows))


def _known(value: float | None) -> str:
    return "unknown" if value is None else f"{value:,.3g}"
