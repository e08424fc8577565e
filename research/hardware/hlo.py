"""Reads the text of an XLA program: its computations, instructions, and source lines.

The text is that of `jax.stages.Compiled.as_text()`, in scheduled order and with physical layouts,
or of `jax.stages.Lowered.as_text(dialect="hlo")`, without either.
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

_ARRAY = re.compile(r"(\w+)\[([\d,<=]*)\](?:\{([^}]*)\})?")
_TILE = re.compile(r"\(([\d,*]+)\)")
_HEADER = re.compile(r"(ENTRY )?%?([^\s(]+)(?: \(.*\) -> .*)? \{$")
_INSTRUCTION = re.compile(r"\s+(ROOT )?%?(\S+) = (.*)")
_NAME = re.compile(r"%?([^\s,(){}%]+)(?=[,)])")
_CALLED = re.compile(
    r"\b(?:calls|body|condition|to_apply|true_computation|false_computation)=%?([^\s,)}]+)"
    r"|\b(?:called_computations|branch_computations)=\{([^}]*)\}"
)
_PACKAGE = f"{Path(__file__).resolve().parents[1]}/"
# Functions around all code of a task, which explain nothing.
_WRAPPERS = {"layers/frozen.py", "hardware/target.py"}
_BITS = re.compile(r"\d+")


@dataclass(frozen=True)
class Array:
    """An array of a program, with its physical layout."""

    dtype: str
    """XLA's name, such as "bf16"."""

    shape: tuple[int, ...]

    minor_to_major: tuple[int, ...]
    """The axes, the one of adjacent elements first."""

    tile: tuple[int, ...]
    """Sizes that the minor axes are padded to multiples of, the major one first."""

    memory: int
    """Memory space: 0 is HBM, others are on the chip, but for 5, the host's."""

    @property
    def size(self) -> int:
        """The number of elements."""
        return math.prod(self.shape)

    @property
    def padded_size(self) -> int:
        """The number of elements in memory."""
        physical = [self.shape[axis] for axis in reversed(self.minor_to_major)]
        tile = self.tile[-len(physical) :] if physical else ()
        first = len(physical) - len(tile)
        for axis, multiple in enumerate(tile, first):
            physical[axis] = -(-physical[axis] // multiple) * multiple
        return math.prod(physical)

    @property
    def item_bytes(self) -> float:
        """Bytes of an element."""
        bits = 8 if self.dtype == "pred" else int((_BITS.search(self.dtype) or ["0"])[0])
        return bits / 8  # of complex numbers, their name has the bits of both parts

    @property
    def bytes(self) -> float:
        """Bytes in memory, padding included."""
        return self.padded_size * self.item_bytes


@dataclass(frozen=True)
class Instruction:
    """An instruction of a computation."""

    name: str
    opcode: str
    outputs: tuple[Array, ...]
    operands: tuple[str, ...]
    called: tuple[str, ...]
    """Names of the computations that it calls."""

    text: str = field(repr=False)
    """The operands and attributes."""

    is_root: bool = False

    def attribute(self, pattern: str) -> str | None:
        """Returns the first group of a pattern in the attributes."""
        found = re.search(pattern, self.text)
        return found[1] if found else None

    @property
    def cycles(self) -> int | None:
        """The compiler's estimate of the kernel's clock cycles; None if it has none."""
        # The compiler writes 2^63 - 1 for kernels that it gives to another core.
        cycles = int(self.attribute(r'"estimated_cycles":"(\d+)"') or 0)
        return cycles if 0 < cycles < 2**62 else None


@dataclass(frozen=True)
class Computation:
    """A sequence of instructions, in the order of their execution."""

    name: str
    instructions: dict[str, Instruction]

    @cached_property
    def parameters(self) -> tuple[Instruction, ...]:
        """The parameters, in order."""
        found = [i for i in self.instructions.values() if i.opcode == "parameter"]
        return tuple(sorted(found, key=lambda i: int(i.attribute(r"^\((\d+)\)") or 0)))

    @cached_property
    def root(self) -> Instruction:
        """The instruction that computes the result."""
        return next(i for i in self.instructions.values() if i.is_root)

    @cached_property
    def users(self) -> dict[str, list[Instruction]]:
        """The instructions that have a given one as operand."""
        users: dict[str, list[Instruction]] = {name: [] for name in self.instructions}
        for instruction in self.instructions.values():
            for operand in instruction.operands:
                users[operand].append(instruction)
        return users

    def inputs(self, instruction: Instruction) -> tuple[Array, ...]:
        """Returns the arrays that an instruction reads."""
        return tuple(
            array for name in instruction.operands for array in self.instructions[name].outputs
        )


@dataclass(frozen=True)
class HloProgram:
    """A compiled program."""

    computations: dict[str, Computation]
    entry: Computation
    frames: dict[int, tuple[tuple[str, int], ...]]
    """The stack of (file, line) of each frame, the innermost first."""

    def called(self, instruction: Instruction) -> tuple[Computation, ...]:
        """Returns the computations that an instruction calls."""
        return tuple(self.computations[name] for name in instruction.called)

    def inside(self, instruction: Instruction) -> Iterator[tuple[Computation, Instruction]]:
        """Yields the instructions of the computations that an instruction calls, recursively."""
        for computation in self.called(instruction):
            for inner in computation.instructions.values():
                yield computation, inner
                yield from self.inside(inner)

    def source(self, instruction: Instruction) -> str:
        """Returns the source line of an instruction, such as "research/layers/resnet.py:80".

        A kernel's products decide it, then its other operations. Empty if the compiler kept none.
        """
        parts = [instruction, *(inner for _, inner in self.inside(instruction))]
        parts.sort(key=lambda part: part.opcode not in ("convolution", "dot", "gather", "sort"))
        for part in parts:
            frame = int(part.attribute(r"stack_frame_id=(\d+)") or 0)
            for file, line in self.frames.get(frame, ()):
                path = file.removeprefix(_PACKAGE)
                if path != file and path not in _WRAPPERS:
                    return f"research/{path}:{line}"
        return ""


def parse(text: str) -> HloProgram:
    """Parses the text of a compiled program."""
    computations: dict[str, Computation] = {}
    tables: dict[str, dict[int, str]] = {}
    entry, current, table = "", None, None
    for line in text.splitlines():
        if line and not line[0].isspace():
            header = _HEADER.match(line)
            current = None
            if header:
                current = computations[header[2]] = Computation(header[2], {})
                entry = header[2] if header[1] else entry
            elif line in ("FileNames", "FunctionNames", "FileLocations", "StackFrames"):
                table = tables.setdefault(line, {})
            elif table is not None and line[0].isdigit():
                number, _, value = line.partition(" ")
                table[int(number)] = value
        elif current and (found := _INSTRUCTION.match(line)):
            one = _instruction(bool(found[1]), found[2], found[3])
            current.instructions[one.name] = one
    return HloProgram(computations, computations[entry], _frames(tables))


def _instruction(is_root: bool, name: str, rest: str) -> Instruction:
    end = _closing(rest, 0) + 1 if rest.startswith("(") else rest.index(" ")
    kind, rest = rest[:end], rest[end:].lstrip()
    opcode, _, _ = rest.partition("(")
    arguments = rest[len(opcode) :]
    inside, attributes = arguments[: _closing(arguments, 0) + 1], arguments
    after = arguments[len(inside) :]
    called: list[str] = []
    for single, several in _CALLED.findall(after):
        called += [single] if single else [part.strip().lstrip("%") for part in several.split(",")]
    operands = () if opcode in ("constant", "parameter") else tuple(_NAME.findall(inside))
    outputs = tuple(_array(*found.groups()) for found in _ARRAY.finditer(kind))
    return Instruction(name, opcode, outputs, operands, tuple(called), attributes, is_root)


def _closing(text: str, start: int) -> int:
    """Returns the position of the parenthesis that closes the one at `start`."""
    depth = 0
    for position in range(start, len(text)):
        depth += {"(": 1, ")": -1}.get(text[position], 0)
        if depth == 0:
            return position
    raise ValueError(f"unbalanced parentheses: {text[:80]}")


def _array(dtype: str, shape: str, layout: str | None) -> Array:
    sizes = tuple(int(size.lstrip("<=")) for size in shape.split(",") if size)
    order, _, rest = (layout or "").partition(":")
    minor_to_major = tuple(map(int, filter(None, order.split(","))))
    if len(minor_to_major) != len(sizes):
        minor_to_major = tuple(reversed(range(len(sizes))))
    # Of nested tiles, only the first pads the array to more elements.
    tile = _TILE.search(rest.split("S(")[0])
    memory = re.search(r"S\((\d+)\)", rest)
    multiples = tuple(int(n) for n in tile[1].split(",") if n.isdigit()) if tile else ()
    return Array(dtype, sizes, minor_to_major, multiples, int(memory[1]) if memory else 0)


def _frames(tables: dict[str, dict[int, str]]) -> dict[int, tuple[tuple[str, int], ...]]:
    names = {number: text.strip('"') for number, text in tables.get("FileNames", {}).items()}
    locations = {}
    for number, text in tables.get("FileLocations", {}).items():
        values = _numbers(text)
        locations[number] = (names.get(values.get("file_name_id", 0), ""), values["line"])
    frames: dict[int, tuple[tuple[str, int], ...]] = {}
    for number, text in sorted(tables.get("StackFrames", {}).items()):
        values = _numbers(text)
        parent = values.get("parent_frame_id", 1) - 1
        frames[number] = (locations[values["file_location_id"]], *frames.get(parent, ()))
    return frames


def _numbers(text: str) -> dict[str, int]:
    return {key: int(value) for key, value in re.findall(r"(\w+)=(\d+)", text)}


def replica_groups(instruction: Instruction) -> np.ndarray | None:
    """Returns the groups of a collective, [groups, size]; None if all devices are one group.

    A permutation has a group for each pair of a source and a target.

    Raises:
      ValueError: the notation is unknown.
    """
    text = instruction.attribute(r"(?:replica_groups|source_target_pairs)=(.*)")
    if text is None or text.startswith("{}"):
        return None
    if listed := re.match(r"\{(\{[\d,{}]*\})\}", text):
        groups = re.findall(r"\{([\d,]+)\}", listed[1])
        return np.array([_integers(group) for group in groups])
    if iota := re.match(r"\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", text):
        shape, sizes, order = (_integers(part or "") for part in iota.groups())
        ids = np.arange(math.prod(sizes)).reshape(sizes)
        return (ids.transpose(order) if order else ids).reshape(shape)
    if axes := re.match(r"mesh\[([^\]]*)\] ?\{([^}]*)\}", text):
        mesh = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", axes[1])}
        grouped = re.findall(r"'(\w+)'", axes[2])
        names = [name for name in mesh if name not in grouped] + grouped
        ids = np.arange(math.prod(mesh.values())).reshape(tuple(mesh.values()))
        ids = ids.transpose([list(mesh).index(name) for name in names])
        return ids.reshape(-1, math.prod(mesh[name] for name in grouped))
    raise ValueError(f"unknown notation of groups: {text[:80]}")


def _integers(text: str) -> list[int]:
    return [int(number) for number in text.split(",") if number]
