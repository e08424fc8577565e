"""Predicts the time of a compiled TPU program, kernel by kernel.

A kernel that uses the matrix unit takes the larger of the compiler's cycles and the time of its
traffic with HBM; any other kernel the larger of that traffic and the work of the vector unit. A
loop counts as often as it repeats. `tests/benchmarks/receipts.py` compares predictions with
published step times.
"""

from dataclasses import dataclass, field, replace
from typing import Self

from research.hardware.hlo import Computation, HloProgram, Instruction, replica_groups
from research.hardware.operations import (
    FREE,
    copied_bytes,
    count_operations,
    num_slices,
    traffic_bytes,
    trip_count,
    vector_instructions,
)
from research.hardware.slices import TpuSlice

_ACHIEVED_BANDWIDTH = 0.9  # of the peak, in long transfers
_KERNEL_SECONDS = {True: 0.7e-6, False: 0.08e-6}  # start of a kernel that uses HBM, or does not
_HOP_SECONDS = 1e-6  # latency of one step of a ring of chips
_VECTORS_PER_CYCLE = 2  # sustained, of four arithmetic units

METHOD = 1  # to be raised with each change of this folder that changes predicted times

COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
_MATRIX = {"convolution", "dot"}
_INDEXED = {"gather", "scatter"}


@dataclass(frozen=True)
class Kernel:
    """The cost of one instruction, over all its repetitions."""

    opcode: str
    source: str
    """File and line, such as "research/layers/resnet.py:80"; empty if unknown."""

    seconds: float
    bytes: float
    """HBM traffic in bytes."""

    flops: float
    """Floating point operations of products."""

    limit: str
    """The unit that takes the time: "matrix unit", "memory", "vector unit", or "start"."""

    repetitions: int = 1


@dataclass(frozen=True)
class Collective:
    """A collective operation, over all its repetitions."""

    opcode: str
    source: str
    bytes: float
    """Bytes of its operands on a device, of one repetition."""

    group: tuple[int, ...]
    """The devices of the first group, as positions in the mesh; empty: all."""

    seconds: float
    hidden_seconds: float
    """Time for which kernels run meanwhile."""

    repetitions: int


@dataclass(frozen=True)
class Loop:
    """A loop, and its share of the time."""

    source: str
    repetitions: int
    seconds: float


@dataclass
class Estimate:
    """The predicted cost of one execution on one device."""

    kernels: list[Kernel] = field(default_factory=list)
    collectives: list[Collective] = field(default_factory=list)
    loops: list[Loop] = field(default_factory=list)
    hidden_bytes: float = 0.0
    """HBM traffic that is moved while kernels compute."""

    unknown_loops: list[str] = field(default_factory=list)
    """Sources of loops whose number of repetitions the program does not contain."""

    @property
    def kernel_seconds(self) -> float:
        """Time of the kernels."""
        return sum(kernel.seconds for kernel in self.kernels)

    @property
    def collective_seconds(self) -> float:
        """Time of the collectives that no kernel hides."""
        return sum(max(0.0, one.seconds - one.hidden_seconds) for one in self.collectives)

    @property
    def bytes(self) -> float:
        """HBM traffic."""
        return self.hidden_bytes + sum(kernel.bytes for kernel in self.kernels)

    @property
    def flops(self) -> float:
        """Floating point operations of products."""
        return sum(kernel.flops for kernel in self.kernels)


@dataclass(frozen=True)
class Device:
    """The peaks of one JAX device of a TPU, which is a chip or one of its two cores."""

    clock_hz: float
    vector_units: int
    flops_per_second: float
    bytes_per_second: float
    link_bytes_per_second: float
    """Of one link to a neighbouring chip, in one direction."""

    torus: tuple[int, ...]
    """Numbers of chips along the axes of the slice."""

    @classmethod
    def of(cls, tpu_slice: TpuSlice) -> Self:
        """Returns the peaks of a device of a slice."""
        chip = tpu_slice.chip
        return cls(
            clock_hz=chip.clock_ghz * 1e9,
            vector_units=chip.tensor_cores // chip.devices_per_chip,
            flops_per_second=chip.bf16_tflops * 1e12 / chip.devices_per_chip,
            bytes_per_second=chip.hbm_gb_per_s * 1e9 / chip.devices_per_chip,
            link_bytes_per_second=chip.link_gb_per_s * 1e9 / (2 * chip.torus_dimensions),
            torus=tuple(map(int, tpu_slice.topology.split("x"))),
        )

    def ring(self, size: int) -> tuple[float, float]:
        """Returns bytes per second and hops of a collective over a group of devices.

        A group is assumed to lie along as few axes of the slice as possible. A side of 2 has one
        link, and so has each end of a longer one; a side of 16, or in three dimensions of a
        multiple of 4, is a ring with two.
        """
        links, hops, covered = 0, 0.0, 1
        for side in sorted(self.torus, reverse=True):
            if covered >= size or side == 1:
                break
            is_ring = side % (4 if len(self.torus) == 3 else 16) == 0
            links += 2 if is_ring else 1
            hops += side / 2 if is_ring else side - 1
            covered *= side
        return max(links, 1) * self.link_bytes_per_second, max(hops, 1.0)


def estimate(program: HloProgram, device: Device, num_devices: int) -> Estimate:
    """Predicts the cost of a program on one of `num_devices` devices."""
    walk = _Walk(program, device, num_devices)
    return walk.computation(program.entry, 1)


def count_flops(program: HloProgram) -> float:
    """Returns the floating point operations of a program's products, which need not be compiled."""
    nowhere = Device(1.0, 1, 1.0, 1.0, 1.0, (1,))
    return estimate(program, nowhere, 1).flops


class _Walk:
    """Adds the costs of the instructions of a program, in the order of their execution."""

    def __init__(self, program: HloProgram, device: Device, num_devices: int):
        self.program, self.device, self.num_devices = program, device, num_devices
        self.channels: set[str] = set()  # of the collectives that were counted

    def computation(self, computation: Computation, times: int) -> Estimate:
        """Returns the cost of a computation that is repeated `times` times."""
        result = Estimate()
        started: dict[str, tuple[int, float]] = {}  # position of a collective, kernel time then
        for one in computation.instructions.values():
            part = self.instruction(computation, one, times)
            # A `-done` ends a `-start`; the last fusion with a channel ends what it carries.
            ends = (
                one.operands[:1] if one.opcode.endswith("-done") else _channels(self.program, one)
            )
            if part.collectives:
                now = len(result.collectives), result.kernel_seconds
                started |= dict.fromkeys((one.name, *ends), now)
            _add(result, part)
            for key in started.keys() & set(ends):
                position, begin = started[key]
                hidden = result.kernel_seconds - begin
                collective = replace(result.collectives[position], hidden_seconds=hidden)
                result.collectives[position] = collective
        return result

    def instruction(self, parent: Computation, one: Instruction, times: int) -> Estimate:
        kind = one.opcode.removesuffix("-start")
        if one.opcode in FREE or one.opcode.endswith(("-done", "-update")):
            return Estimate()
        if kind in COLLECTIVES:
            return Estimate(collectives=self.collective(parent, one, kind, times))
        if one.opcode == "while":
            return self.loop(parent, one, times)
        if one.opcode == "conditional":
            branches = [self.computation(branch, times) for branch in self.program.called(one)]
            return max(branches, key=lambda one: one.kernel_seconds + one.collective_seconds)
        if one.opcode in ("call", "async-start", "call-start"):
            parts = [self.computation(called, times) for called in self.program.called(one)]
            return parts[0] if parts else Estimate()
        if one.opcode.endswith("-start"):  # asynchronous copies between HBM and the chip
            return Estimate(hidden_bytes=times * copied_bytes(parent, one))
        is_free = not one.operands or "ConcatBitcast" in one.text  # allocates or renames a buffer
        if one.opcode == "custom-call" and is_free:
            return Estimate()
        if one.opcode == "fusion":
            return self.fusion(parent, one, times)
        return Estimate(kernels=[self.kernel(parent, one, times)])

    def fusion(self, parent: Computation, one: Instruction, times: int) -> Estimate:
        """A fused kernel, in which the compiler also begins, continues and ends collectives."""
        result = Estimate()
        inside = list(self.program.inside(one))
        for computation, inner in inside:
            if inner.opcode in COLLECTIVES:
                scatters = computation.name.startswith("all-reduce-scatter")
                kind = "reduce-scatter" if scatters else inner.opcode
                result.collectives += self.collective(computation, inner, kind, times)
        computes = {inner.opcode for _, inner in inside} & (_MATRIX | {"reduce", "sort"})
        if computes or not any(inner.opcode in COLLECTIVES for _, inner in inside):
            result.kernels.append(self.kernel(parent, one, times))
        return result

    def loop(self, parent: Computation, one: Instruction, times: int) -> Estimate:
        condition = self.program.computations[one.attribute(r"condition=%?([^\s,)]+)") or ""]
        body = self.program.computations[one.attribute(r"body=%?([^\s,)]+)") or ""]
        trips = trip_count(self.program, parent, one, condition)
        result = self.computation(body, times * (trips or 1))
        source = self.program.source(one)
        result.kernels = [k if k.source else replace(k, source=source) for k in result.kernels]
        result.loops.append(Loop(source, trips or 1, result.kernel_seconds))
        if trips is None:
            result.unknown_loops.append(source)
        return result

    def kernel(self, parent: Computation, one: Instruction, times: int) -> Kernel:
        inside = [(parent, one), *self.program.inside(one)]
        opcodes = {inner.opcode for _, inner in inside}
        traffic = traffic_bytes(self.program, parent, one)
        memory = traffic / (_ACHIEVED_BANDWIDTH * self.device.bytes_per_second)
        cycles = (one.cycles or 0) / self.device.clock_hz
        if opcodes & _MATRIX:
            work, limit = cycles, "matrix unit"
        else:
            vectors = sum(vector_instructions(computation, inner) for computation, inner in inside)
            rate = _VECTORS_PER_CYCLE * self.device.vector_units * self.device.clock_hz
            work, limit = vectors / rate, "vector unit"
            if opcodes & _INDEXED:  # one slice per cycle at most
                slices = sum(num_slices(computation, inner) for computation, inner in inside)
                work = max(work, cycles, slices / self.device.clock_hz)
        seconds, limit = (memory, "memory") if memory >= work else (work, limit)
        is_scalar = all(array.size <= 1 for array in one.outputs)  # for the scalar unit
        start = _KERNEL_SECONDS[traffic > 0 and not is_scalar]
        return Kernel(
            opcode=_label(one, opcodes),
            source=self.program.source(one),
            seconds=times * (seconds + start),
            bytes=times * traffic,
            flops=times
            * sum(count_operations(computation, inner) for computation, inner in inside),
            limit="start" if start > seconds else limit,
            repetitions=times,
        )

    def collective(
        self, parent: Computation, one: Instruction, kind: str, times: int
    ) -> list[Collective]:
        """Returns the cost of a collective; empty if it is a part of one that was counted."""
        channel = one.attribute(r"channel_id=(\d+)")
        if channel in self.channels:
            return []
        self.channels |= {channel} if channel else set()
        groups = replica_groups(one)
        is_permutation = kind == "collective-permute"
        size = self.num_devices if groups is None else groups.shape[1]
        operand_bytes = sum(array.size * array.item_bytes for array in parent.inputs(one))
        moved = {
            "all-reduce": 2 * operand_bytes * (size - 1) / size,
            "all-gather": operand_bytes * (size - 1),
            "reduce-scatter": operand_bytes * (size - 1) / size,
            "all-to-all": operand_bytes * (size - 1) / size,
            "collective-permute": operand_bytes,
        }[kind]
        rate, hops = self.device.ring(2 if is_permutation else size)
        hops = 1.0 if is_permutation else hops * (2 if kind == "all-reduce" else 1)
        seconds = moved / rate + hops * _HOP_SECONDS
        return [
            Collective(
                opcode=kind,
                source=self.program.source(one),
                bytes=operand_bytes,
                group=() if groups is None else tuple(map(int, groups[0])),
                seconds=times * seconds if size > 1 else 0.0,
                hidden_seconds=0.0,
                repetitions=times,
            )
        ]


def _channels(program: HloProgram, one: Instruction) -> tuple[str, ...]:
    """The channels of the collectives in a fusion."""
    inside = program.inside(one) if one.opcode == "fusion" else ()
    found = {part.attribute(r"channel_id=(\d+)") for _, part in inside}
    return tuple(channel for channel in found if channel)


def _add(total: Estimate, part: Estimate) -> None:
    total.kernels += part.kernels
    total.collectives += part.collectives
    total.loops += part.loops
    total.hidden_bytes += part.hidden_bytes
    total.unknown_loops += part.unknown_loops


def _label(one: Instruction, opcodes: set[str]) -> str:
    """Names a kernel by the operation that is most likely to decide its cost."""
    for opcode in ("convolution", "dot", "sort", "scatter", "gather", "reduce-window"):
        if opcode in opcodes:
            return opcode
    if one.opcode == "custom-call":
        return one.attribute(r'custom_call_target="([^"]+)"') or one.opcode
    for opcode in ("dynamic-update-slice", "dynamic-slice", "reduce", "transpose", "copy"):
        if opcode in opcodes:
            return opcode
    return "elementwise" if one.opcode == "fusion" else one.opcode


def merged(kernels: list[Kernel]) -> list[Kernel]:
    """Returns kernels joined by operation and source line, the most expensive first."""
    groups: dict[tuple[str, str], list[Kernel]] = {}
    for kernel in kernels:
        groups.setdefault((kernel.opcode, kernel.source), []).append(kernel)
    joined = [
        replace(
            max(group, key=lambda kernel: kernel.seconds),
            seconds=sum(kernel.seconds for kernel in group),
            bytes=sum(kernel.bytes for kernel in group),
            flops=sum(kernel.flops for kernel in group),
            repetitions=sum(kernel.repetitions for kernel in group),
        )
        for group in groups.values()
    ]
    return sorted(joined, key=lambda kernel: -kernel.seconds)
