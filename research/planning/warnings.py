"""Warnings of operations that are known to be slow on a TPU."""

import math
from collections import Counter
from collections.abc import Iterator

from research.hardware.hlo import HloProgram, Instruction
from research.hardware.roofline import Estimate

_LOOP_SHARE = 0.02  # of the step's time, below which a loop is not worth a warning
_MIN_REPETITIONS = 16
_MIN_INDICES = 10_000  # gathered elements
_MIN_SORTED = 1024  # length of a sorted axis
_MIN_PADDING = 4.0  # bytes in memory per byte of content
_MIN_PADDED_BYTES = 2**23
_VIEWS = {"parameter", "tuple", "while", "get-tuple-element", "bitcast"}  # of other arrays
_MIN_SORTED_ELEMENTS = 100_000
_SMALL_COLLECTIVE = 2**16  # bytes, below which latency dominates
_MIN_COLLECTIVES = 8


def warnings(program: HloProgram, costs: Estimate) -> list[str]:
    """Returns a line for each kind of slow operation and each source line that has it."""
    found = [*_loops(costs), *_instructions(program), *_small_collectives(costs)]
    return [
        f"{text} ({count} times)" if count > 1 else text for text, count in Counter(found).items()
    ]


def _loops(costs: Estimate) -> Iterator[str]:
    total = costs.kernel_seconds
    for loop in costs.loops:
        if loop.repetitions >= _MIN_REPETITIONS and loop.seconds > _LOOP_SHARE * total:
            share = 100 * loop.seconds / total
            yield (
                f"serial loop of {loop.repetitions} steps, {1e3 * loop.seconds:.2f} ms, "
                f"{share:.0f} % of the kernels: {loop.source}"
            )
    for source in costs.unknown_loops:
        yield f"loop of unknown length, counted once: {source}"


def _instructions(program: HloProgram) -> Iterator[str]:
    for computation in program.computations.values():
        for one in computation.instructions.values():
            source = program.source(one)
            if one.opcode == "gather" and _gathered_elements(one) >= _MIN_INDICES:
                yield f"gather of {_gathered_elements(one):,} single elements: {source}"
            elif one.opcode == "sort" and _is_large_sort(one):
                yield f"full sort of {list(one.outputs[0].shape)}: {source}"
            elif one.opcode == "convolution" and "operand_precision={high" in one.text:
                yield f"product in float32, several passes of the matrix unit: {source}"
    for one in program.entry.instructions.values():
        for array in one.outputs if one.opcode not in _VIEWS else ():
            content = array.size * array.item_bytes
            if array.bytes >= max(_MIN_PADDED_BYTES, _MIN_PADDING * content) and not array.memory:
                yield (
                    f"{array.dtype}{list(array.shape)} takes {array.bytes / content:.0f} times its "
                    f"size by padding: {program.source(one)}"
                )


def _gathered_elements(one: Instruction) -> int:
    sizes = one.attribute(r"slice_sizes=\{([\d,]*)\}") or ""
    is_single = math.prod(int(size) for size in sizes.split(",") if size) == 1
    return one.outputs[0].size if is_single else 0


def _is_large_sort(one: Instruction) -> bool:
    axis, array = int(one.attribute(r"dimensions=\{(\d+)\}") or 0), one.outputs[0]
    is_long = bool(array.shape) and array.shape[axis] >= _MIN_SORTED
    return is_long and array.size >= _MIN_SORTED_ELEMENTS


def _small_collectives(costs: Estimate) -> Iterator[str]:
    small = [one for one in costs.collectives if one.bytes < _SMALL_COLLECTIVE]
    count = sum(one.repetitions for one in small)
    if count >= _MIN_COLLECTIVES:
        milliseconds = 1e3 * sum(one.seconds for one in small)
        yield f"{count} collectives of less than 64 KiB, {milliseconds:.2f} ms of latency"
