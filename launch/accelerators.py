"""Accelerator types of Cloud TPU: their chips, hosts, zones and list prices.

`research/hardware/chips.py` reads the facts from `chips.json`, which names the source of each.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache

from research.common.errors import UserError
from research.hardware.chips import Chip, Offer, Price, list_price
from research.hardware.slices import offers_of, split_type


@dataclass(frozen=True)
class Slice:
    """An accelerator type: TPU chips joined by their own interconnect, and their host VMs."""

    name: str
    """The accelerator type, such as v5litepod-16."""

    generation: str
    """v2, v3, v4, v5e, v5p, v6e or tpu7x."""

    chips: int

    hosts: int
    """The number of host VMs, each of which runs one training process."""

    api: str
    """The API that creates the slice: "tpu" (Cloud TPU) or "compute" (Compute Engine)."""

    runtime_version: str
    """The TPU software version; for Compute Engine the image family."""

    topology: str | None
    """The topology, such as 4x4; None if there are several or it is unknown."""

    machine_type: str | None
    """The Compute Engine machine type; None if the API chooses it."""

    multislice: bool
    """Whether several slices can train together over the data center network."""

    zones: tuple[str, ...]
    """The zones that offer this type, in the table's order."""

    offers: tuple[Offer, ...] = field(repr=False, compare=False)
    """The table's zones and prices for this type."""

    def price(self, zone: str, spot: bool = False) -> Price | None:
        """Returns the list price in a zone; see `list_price` if that is unknown."""
        return list_price(self.offers, zone, spot)

    def check_zone(self, zone: str) -> None:
        """Checks that a zone offers this type.

        Raises:
          UserError: it does not; the message lists the zones that do.
        """
        if zone not in self.zones:
            raise UserError(
                f"invalid --zone={zone}: {self.name} is offered in {', '.join(self.zones)}"
            )


@cache
def parse(name: str) -> Slice:
    """Returns the slice of an accelerator type.

    Raises:
      UserError: the type or its size does not exist; the message lists those that do.
    """
    chip, size = split_type(name)
    return _slice(name, size, chip)


def _slice(name: str, size: str, chip: Chip) -> Slice:
    types = chip.slice_types
    num_chips = int(size) // (2 if types.counts == "cores" else 1)
    single_host = num_chips in types.single_host_chips
    hosts = 1 if single_host else num_chips // types.chips_per_host
    offers = offers_of(chip, num_chips)
    machine_types = types.machine_types
    return Slice(
        name=name,
        generation=chip.generation,
        chips=num_chips,
        hosts=hosts,
        api=types.api,
        runtime_version=types.runtime_version,
        topology=types.topologies[size],
        machine_type=machine_types[str(num_chips // hosts)] if machine_types else None,
        multislice=types.multislice,
        zones=tuple(zone for offer in offers for zone in offer.zones),
        offers=offers,
    )
