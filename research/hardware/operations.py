"""The work of single operations of a program: HBM traffic, arithmetic, repetitions of loops."""

import math
from collections.abc import Iterator
from functools import cache

from research.hardware.hlo import Array, Computation, HloProgram, Instruction

_VECTOR_SIZE = 8 * 128  # elements in a vector register

# Operations that take no time.
FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all"}
FREE |= {"partition-id", "replica-id", "opt-barrier", "iota", "add-dependency", "domain"}
_LAYOUT = FREE | {"broadcast", "reshape", "slice", "dynamic-slice", "dynamic-update-slice"}
_LAYOUT |= {"concatenate", "pad", "convolution", "dot", "fusion", "call", "sort"}
# Vector instructions of operations that the hardware does not have (polynomials, corrections).
_COSTLY = {"exponential": 8, "log": 12, "tanh": 14, "logistic": 12, "divide": 8, "power": 20}
_COSTLY |= {"sine": 20, "cosine": 20, "sqrt": 6, "rsqrt": 6, "remainder": 10, "erf": 14}
_COSTLY |= {"exponential-minus-one": 12, "log-plus-one": 14, "cbrt": 10, "tan": 20, "atan2": 20}


def copied_bytes(parent: Computation, start: Instruction) -> float:
    """Bytes that an asynchronous copy or slice reads from HBM and writes to it."""
    done = next((user for user in parent.users[start.name] if user.opcode.endswith("-done")), None)
    arrays = done.outputs if done else start.outputs[-1:]
    in_hbm = any(array.memory == 0 for array in parent.inputs(start))
    return sum(array.bytes * (in_hbm + (array.memory == 0)) for array in arrays)


def trip_count(
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


def traffic_bytes(program: HloProgram, parent: Computation, one: Instruction) -> float:
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


def vector_instructions(computation: Computation, one: Instruction) -> float:
    """Returns the number of vector instructions of an operation."""
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


def num_slices(computation: Computation, one: Instruction) -> float:
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


def count_operations(computation: Computation, one: Instruction) -> float:
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
