"""TPU slices by name, such as v5e-16: their chips, and the topology that joins them.

The launcher imports this module on machines without JAX; see `chips.py`.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass

from research.common.errors import UserError
from research.hardware.chips import Chip, Offer, SliceTypes, chips


@dataclass(frozen=True)
class TpuSlice:
    """TPU chips joined by their own interconnect."""

    name: str
    """As the project writes it, such as v5e-16 or v4-32."""

    chip: Chip

    num_chips: int

    topology: str
    """The sizes of the torus, such as 4x4 or 2x2x4."""

    @property
    def num_devices(self) -> int:
        """Number of JAX devices."""
        return self.num_chips * self.chip.devices_per_chip

    @property
    def offers(self) -> tuple[Offer, ...]:
        """The zones and prices of slices of this size; of less than a host, those of a host."""
        smallest = min(self.chip.slice_types.single_host_chips)
        return offers_of(self.chip, max(self.num_chips, smallest))


def parse_slice(name: str) -> TpuSlice:
    """Returns the slice of a name, in the project's or in Google's spelling.

    Raises:
      UserError: it does not exist; the message names the nearest, or the sizes that exist.
    """
    if re.match(r"\d+x", name):
        raise UserError(f"invalid slice '{name}': a plan is that of one slice, such as v5e-16")
    chip, size = split_type(google_name(name))
    types = chip.slice_types
    num_chips = int(size) // (2 if types.counts == "cores" else 1)
    topology = types.topologies[size] or _torus(num_chips, chip.torus_dimensions)
    return TpuSlice(f"{chip.generation}-{size}", chip, num_chips, topology)


def one_chip(chip: Chip) -> TpuSlice:
    """Returns a single chip of a generation, whether or not it is offered in this size."""
    name = f"{chip.generation}-1" if "1" in chip.slice_types.topologies else chip.generation
    return TpuSlice(name, chip, 1, "x".join(["1"] * chip.torus_dimensions))


def offers_of(chip: Chip, num_chips: int) -> tuple[Offer, ...]:
    """Returns the offers of a generation that apply to slices of a number of chips."""
    is_single = num_chips in chip.slice_types.single_host_chips
    hosts = ("any", "one" if is_single else "several")
    return tuple(offer for offer in chip.offers if offer.hosts in hosts)


def google_name(name: str) -> str:
    """Returns Google's spelling of common names: v5e-16 is v5litepod-16, v7x-8 is tpu7x-8."""
    name = re.sub(r"^tpu-", "", name.strip().lower())
    return re.sub(r"^v7x?-", "tpu7x-", re.sub(r"^v5(litepod|lite|e)-?", "v5litepod-", name))


def split_type(accelerator_type: str) -> tuple[Chip, str]:
    """Returns the chip and the size of an accelerator type in Google's spelling.

    Raises:
      UserError: the type or its size does not exist; the message lists those that do.
    """
    for chip in chips():
        types = chip.slice_types
        size = re.fullmatch(re.escape(types.prefix) + r"(\d+)", accelerator_type)
        if size:
            if size[1] not in types.topologies:
                raise UserError(_invalid_size(accelerator_type, types))
            return chip, size[1]
    names = [name for chip in chips() for name in accelerator_types(chip)]
    near = difflib.get_close_matches(google_name(accelerator_type), names, n=1, cutoff=0.5)
    suggestion = f"did you mean '{near[0]}'? " if near else ""
    known = ", ".join(f"{chip.slice_types.prefix}N" for chip in chips())
    raise UserError(
        f"unknown accelerator type '{accelerator_type}': {suggestion}expected one of {known}"
    )


def accelerator_types(chip: Chip) -> list[str]:
    """Returns all accelerator types of a generation, in Google's spelling."""
    return [f"{chip.slice_types.prefix}{size}" for size in chip.slice_types.topologies]


def _torus(num_chips: int, dimensions: int) -> str:
    """Returns the most cubic torus of powers of two, or of one such side and multiples of it."""
    sides = [1] * dimensions
    rest = num_chips
    while rest > 1:
        factor = 2 if rest % 2 == 0 else rest
        sides[sides.index(min(sides))] *= factor
        rest //= factor
    return "x".join(map(str, sorted(sides)))


def _invalid_size(name: str, types: SliceTypes) -> str:
    """Formats the error for a size; lists those up to 1024 and the last if many."""
    sizes = [int(size) for size in types.topologies]
    listed = [str(size) for size in sizes if len(sizes) <= 16 or size <= 1024]
    rest = [] if len(listed) == len(sizes) else [f"... {sizes[-1]}"]
    return (
        f"invalid accelerator type '{name}': {types.prefix}N counts {types.counts}, and N can be "
        f"{', '.join(listed + rest)}"
    )
