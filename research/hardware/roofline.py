"""Predicts the time of a compiled TPU program, kernel by kernel.

A kernel that uses the matrix unit takes the larger of the compiler's cycles and the time of its
traffic with HBM; any other kernel the larger of that traffic and the work of the vector unit. A
loop counts as often as it repeats. `tests/benchmarks/receipts.py` compares predictions with
published step times.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Self

from research.hardware.hlo import Array, Computation, HloProgram, Instruction, replica_groups
from research.hardware.slices import TpuSlice

_ACHIEVED_BANDWIDTH = 0.9  # of the peak, in long transfers
_KERNEL_SECONDS = {True: 0.7e-6, False: 0.08e-6}  # start of a kernel that uses HBM, or does not
_HOP_SECONDS = 1e-6  # latency of one step of a ring of chips
_VECTOR_SIZE = 8 * 128  # elements in a vector register
_VECTORS_PER_CYCLE = 2  # sustained, of four arithmetic units

_FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all"}
_FREE |= {"partition-id", "replica-id", "opt-barrier", "iota", "add-dependency", "domain"}
_LAYOUT = _FREE | {"broadcast", "reshape", "slice", "dynamic-slice", "dynamic-update-slice"}
_LAYOUT |= {"concatenate", "pad", "convolution", "dot", "fusion", "call", "sort"}
# Vector instructions of operations that the hardware does not have (polynomials, corrections).
_COSTLY = {"exponential": 8, "log": 12, "tanh": 14, "logistic": 12, "divide": 8, "power": 20}
_COSTLY |= {"sine": 20, "cosine": 20, "sqrt": 6, "rsqrt": 6, "remainder": 10, "erf": 14}
_COSTLY |= {"exponential-minus-one": 12, "log-plus-one": 14, "cbrt": 10, "tan": 20, "atan2": 20}
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
    """What takes the time: "matrix unit", "memory", "vector unit", "start", or "interconnect"."""

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
        if one.opcode in _FREE or one.opcode.endswith(("-done", "-update")):
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
            return Estimate(hidden_bytes=times * _copied_bytes(parent, one))
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
        trips = _trip_count(self.program, parent, one, condition)
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
        traffic = _traffic(self.program, parent, one)
        memory = traffic / (_ACHIEVED_BANDWIDTH * self.device.bytes_per_second)
        cycles = (one.cycles or 0) / self.device.clock_hz
        if opcodes & _MATRIX:
            work, limit = cycles, "matrix unit"
        else:
            vectors = sum(_vectors(computation, inner) for computation, inner in inside)
            rate = _VECTORS_PER_CYCLE * self.device.vector_units * self.device.clock_hz
            work, limit = vectors / rate, "vector unit"
            if opcodes & _INDEXED:  # one slice per cycle at most
                slices = sum(_num_slices(computation, inner) for computation, inner in inside)
                work = max(work, cycles, slices / self.device.clock_hz)
        seconds, limit = (memory, "memory") if memory >= work else (work, limit)
        is_scalar = all(array.size <= 1 for array in one.outputs)  # for the scalar unit
        start = _KERNEL_SECONDS[traffic > 0 and not is_scalar]
        return Kernel(
            opcode=_label(one, opcodes),
            source=self.program.source(one),
            seconds=times * (seconds + start),
            bytes=times * traffic,
            flops=times * sum(_flops(computation, inner) for computation, inner in inside),
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


def _copied_bytes(parent: Computation, start: Instruction) -> float:
    """Bytes that an asynchronous copy or slice reads from HBM and writes to it."""
    done = next((user for user in parent.users[start.name] if user.opcode.endswith("-done")), None)
    arrays = done.outputs if done else start.outputs[-1:]
    in_hbm = any(array.memory == 0 for array in parent.inputs(start))
    return sum(array.bytes * (in_hbm + (array.memory == 0)) for array in arrays)


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


def _trip_count(
    program: HloProgram, parent: Computation, loop: Instruction, condition: Computation
) -> int | None:
    """Reads how often a loop repeats that counts from a constant to a constant.

    Of several conditions, such as the end of a beam search, the counted one is the bound.
    """
    known = loop.attribute(r'"known_trip_count":\{"n":"(\d+)"')
    if known:
        return int(known)
    begin = parent.instructions[loop.operands[0]]
    counts = []
    for where, compare in _with_fused(program, condition):
        if compare.opcode != "compare":
            continue
        first, last = (
            _constant(name, where, condition, parent, begin) for name in compare.operands[:2]
        )
        direction = compare.attribute(r"direction=(\w+)") or ""
        if first is None or last is None or direction not in ("LT", "LE", "GT", "GE"):
            continue
        distance = last - first if direction[0] == "L" else first - last
        counts.append(max(0, distance + (direction[1] == "E")))
    return min(counts, default=None)


def _constant(
    name: str, where: Computation, condition: Computation, parent: Computation, begin: Instruction
) -> int | None:
    """Returns the initial value of a scalar in a loop's condition; None if it is not constant."""
    one = where.instructions.get(name)
    if one is None:
        return None
    if one.opcode == "constant":
        number = one.attribute(r"^\((-?\d+)\)")
        return int(number) if number else None
    if one.opcode in ("copy", "bitcast", "convert"):
        return _constant(one.operands[0], where, condition, parent, begin)
    if one.opcode == "get-tuple-element" and where is condition and begin.opcode == "tuple":
        index = int(one.attribute(r"index=(\d+)") or 0)
        return _constant(begin.operands[index], parent, condition, parent, begin)
    callers = (c for c in condition.instructions.values() if where.name in c.called)
    caller = next(callers, None)
    if one.opcode == "parameter" and caller is not None:
        index = where.parameters.index(one)
        return _constant(caller.operands[index], condition, condition, parent, begin)
    return None


def _with_fused(
    program: HloProgram, computation: Computation
) -> Iterator[tuple[Computation, Instruction]]:
    for one in computation.instructions.values():
        yield computation, one
        yield from program.inside(one)


def _traffic(program: HloProgram, parent: Computation, one: Instruction) -> float:
    """Bytes that a kernel reads from HBM and writes to it.

    An operand of which a kernel reads slices, and an output of which it replaces slices, count by
    these slices.
    """
    body = program.called(one)[0] if one.opcode == "fusion" else None
    read = 0.0
    for index, name in enumerate(one.operands):
        arrays = parent.instructions[name].outputs
        whole = sum(array.bytes for array in arrays if array.memory == 0)
        if not whole:
            continue
        if body is not None:
            part = _read_bytes(program, body, body.parameters[index].name)
        else:
            part = _slice_bytes(parent, one, name)
        read += whole if part is None else min(whole, part)
    return read + _written_bytes(program, parent, one)


def _read_bytes(program: HloProgram, body: Computation, name: str) -> float | None:
    """Bytes that a fused computation reads of a parameter; None: all."""
    total = 0.0
    for user in body.users[name]:
        if user.opcode == "bitcast":
            part = _read_bytes(program, body, user.name)
        elif user.opcode == "fusion":
            inner = program.called(user)[0]
            part = 0.0
            for index, operand in enumerate(user.operands):
                if operand == name:
                    more = _read_bytes(program, inner, inner.parameters[index].name)
                    part = None if more is None or part is None else part + more
        else:
            part = _slice_bytes(body, user, name)
        if part is None:
            return None
        total += part
    return total


def _slice_bytes(computation: Computation, user: Instruction, name: str) -> float | None:
    """Bytes that an instruction reads of an operand of which it needs slices; None: all."""
    if user.operands and user.operands[0] == name:
        if user.opcode in ("dynamic-slice", "slice", "gather"):
            return sum(array.bytes for array in user.outputs)
        in_place = ("dynamic-update-slice", "scatter")
        if user.opcode in in_place and user.operands.count(name) == 1:
            return 0.0
    return None


def _written_bytes(program: HloProgram, parent: Computation, one: Instruction) -> float:
    body, root = parent, one
    while root.opcode == "fusion":
        body = program.called(root)[0]
        root = body.root
    roots = (
        [body.instructions[name] for name in root.operands] if root.opcode == "tuple" else [root]
    )
    if len(roots) != len(one.outputs):
        return sum(array.bytes for array in one.outputs if array.memory == 0)
    total = 0.0
    for array, source in zip(one.outputs, roots, strict=True):
        while source.opcode == "bitcast":
            source = body.instructions[source.operands[0]]
        if array.memory != 0:
            continue
        if source.opcode in ("dynamic-update-slice", "scatter"):
            position = 1 if source.opcode == "dynamic-update-slice" else 2
            update = body.instructions[source.operands[position]].outputs[0]
            total += min(array.bytes, update.bytes)
        else:
            total += array.bytes
    return total


def _vectors(computation: Computation, one: Instruction) -> float:
    """Vector instructions of an operation."""
    if one.opcode == "sort":
        return _sort_vectors(one)
    if one.opcode in _LAYOUT or not one.outputs:
        return 0.0
    sized = one.outputs
    if one.opcode in ("reduce", "reduce-window"):
        sized = computation.inputs(one)[: len(one.outputs)]
        if one.opcode == "reduce-window":
            sizes = one.attribute(r"window=\{size=([\dx]+)") or "1"
            window = math.prod(map(int, sizes.split("x")))
            return window * sum(map(_registers, one.outputs))
    return _COSTLY.get(one.opcode, 1) * sum(map(_registers, sized))


def _num_slices(computation: Computation, one: Instruction) -> float:
    """Slices that a gather reads or a scatter writes."""
    if one.opcode == "gather":
        sizes = one.attribute(r"slice_sizes=\{([\d,]*)\}") or ""
        return one.outputs[0].size / math.prod(int(n) for n in sizes.split(",") if n)
    if one.opcode == "scatter":
        indices = computation.inputs(one)[1]
        return indices.size / (indices.shape[-1] if indices.shape else 1)
    return 0.0


def _registers(array: Array) -> float:
    return array.padded_size / _VECTOR_SIZE


def _sort_vectors(one: Instruction) -> float:
    """Vector instructions of a bitonic sort, counted by the real length of the sorted axis."""
    axis = int(one.attribute(r"dimensions=\{(\d+)\}") or 0)
    length = one.outputs[0].shape[axis] if one.outputs[0].shape else 1
    stages = math.ceil(math.log2(max(length, 2)))
    elements = sum(array.size for array in one.outputs)
    return 3 * elements / _VECTOR_SIZE * stages * (stages + 1) / 2


def _flops(computation: Computation, one: Instruction) -> float:
    """Floating point operations of a product; those with padding do not count."""
    if one.opcode == "dot":
        left = computation.inputs(one)[0]
        axes = one.attribute(r"lhs_contracting_dims=\{([\d,]*)\}") or ""
        return 2 * one.outputs[0].size * math.prod(left.shape[int(a)] for a in axes.split(",") if a)
    if one.opcode != "convolution":
        return 0.0
    labels = one.attribute(r"dim_labels=([\w?]+_[\w?]+->[\w?]+)") or ""
    (data, kernel), output = labels.split("->")[0].split("_"), labels.split("->")[1]
    left, right = computation.inputs(one)[:2]
    out = one.outputs[0].shape
    products = out[output.index("b")] * out[output.index("f")] * right.shape[kernel.index("i")]
    window = one.attribute(r"window=\{([^}]*)\}") or ""
    for axis in range(len(data) - 2):
        sizes = left.shape[data.index(str(axis))], out[output.index(str(axis))]
        products *= _valid_pairs(*sizes, _window(window, axis))
    return 2.0 * products


def _window(text: str, axis: int) -> tuple[int, int, int, int, int]:
    """Returns size, stride, padding before, and dilation of input and kernel of an axis."""
    values = dict(part.split("=") for part in text.split())

    def number(key: str, default: int) -> int:
        return int(values[key].split("x")[axis].split("_")[0]) if key in values else default

    return (
        number("size", 1),
        number("stride", 1),
        number("pad", 0),
        number("lhs_dilate", 1),
        number("rhs_dilate", 1),
    )


@cache
def _valid_pairs(size_in: int, size_out: int, window: tuple[int, int, int, int, int]) -> int:
    """Counts the pairs of an output and a kernel position that meet an input element."""
    size, stride, pad, dilate_in, dilate_kernel = window
    last = (size_in - 1) * dilate_in
    count = 0
    for position in range(size):
        offset = position * dilate_kernel - pad
        for out in range(size_out):
            where = out * stride + offset
            count += 0 <= where <= last and where % dilate_in == 0
    return count


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
