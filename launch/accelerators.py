"""What Google calls its slices, what they consist of, where they are, and what they cost.

The facts are those of research/hardware/chips.json, which names the source of each.
"""

from __future__ import annotations

import difflib
import json
import re
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from research.common.errors import UserError

CHIPS = Path(__file__).parents[1] / "research" / "hardware" / "chips.json"


@dataclass(frozen=True)
class Price:
    """A list price, in US dollars for one chip and one hour, without discounts and taxes."""

    dollars: float

    region: str
    """Where it holds."""

    date: str
    """When it was read."""

    source: str
    """Where it was read."""


@dataclass(frozen=True)
class Slice:
    """A type of slice: TPU chips with a network of their own, and the machines they sit in."""

    name: str
    """As gcloud's --accelerator-type, such as v5litepod-16."""

    generation: str
    """v2, v3, v4, v5e, v5p, v6e or tpu7x."""

    chips: int

    hosts: int
    """Machines; each runs one training process."""

    api: str
    """tpu: the Cloud TPU API creates it; compute: Compute Engine."""

    runtime_version: str
    """The machines' software; for Compute Engine an image family."""

    topology: str | None
    """The chips' arrangement, such as 4x4; None: there are several, or it is unknown."""

    machine_type: str | None
    """Of Compute Engine; None: the API chooses."""

    multislice: bool
    """Whether several can be joined over the data centre's network."""

    zones: tuple[str, ...]
    """Where it is offered, those of the table's first price first."""

    offers: tuple[dict[str, Any], ...] = field(repr=False, compare=False)
    """Rows of the table: zones and prices."""

    def price(self, zone: str, spot: bool = False) -> Price | None:
        """List price in a zone; None: no price of this generation is known.

        Where the zone's own is unknown it is the dearest that is known elsewhere, so that a cap
        on dollars holds all the same; `region` tells.
        """
        kind = "spot" if spot else "on_demand"
        priced = [offer for offer in self.offers if offer[kind] is not None]
        here = [offer for offer in priced if zone in offer["zones"]]
        if not priced:
            return None
        offer = max(here or priced, key=lambda offer: offer[kind])
        read = _table()["sources"][offer["source"]]
        return Price(offer[kind], offer["region"], read["read"], read["about"])

    def check_zone(self, zone: str) -> None:
        """Refuses a zone in which this is not offered.

        Raises:
          UserError: with the zones that are right.
        """
        if zone not in self.zones:
            raise UserError(
                f"--zone={zone} does not offer {self.name}; these do: {', '.join(self.zones)}"
            )


@cache
def parse(name: str) -> Slice:
    """The slice of that name.

    Raises:
      UserError: there is no such type, or not in that size.
    """
    for generation in _table()["generations"]:
        kind = generation["type"]
        size = re.fullmatch(re.escape(kind["prefix"]) + r"(\d+)", name)
        if size:
            if size[1] not in generation["sizes"]["topologies"]:
                raise UserError(_no_size(name, generation))
            return _slice(name, size[1], generation)
    names = [name for generation in _table()["generations"] for name in _names(generation)]
    near = difflib.get_close_matches(_as_google(name), names, n=1, cutoff=0.5)
    meant = f"did you mean '{near[0]}'? " if near else ""
    kinds = ", ".join(generation["type"]["prefix"] + "N" for generation in _table()["generations"])
    raise UserError(f"there is no accelerator '{name}'; {meant}The types are: {kinds}")


def _slice(name: str, size: str, generation: dict[str, Any]) -> Slice:
    kind, hosts = generation["type"], generation["hosts"]
    chips = int(size) // (2 if kind["counts"] == "cores" else 1)
    alone = chips in hosts["single_host_chips"]
    machines = 1 if alone else chips // hosts["chips_per_host"]
    offers = [o for o in generation["offers"] if o["hosts"] in ("any", _one_or_several(alone))]
    types = kind["machine_types"]
    return Slice(
        name=name,
        generation=generation["generation"],
        chips=chips,
        hosts=machines,
        api=kind["api"],
        runtime_version=kind["runtime_version"],
        topology=generation["sizes"]["topologies"][size],
        machine_type=types[str(chips // machines)] if types else None,
        multislice=kind["multislice"],
        zones=tuple(zone for offer in offers for zone in offer["zones"]),
        offers=tuple(offers),
    )


def _one_or_several(alone: bool) -> str:
    return "one" if alone else "several"


def _names(generation: dict[str, Any]) -> list[str]:
    prefix = generation["type"]["prefix"]
    return [f"{prefix}{size}" for size in generation["sizes"]["topologies"]]


def _as_google(name: str) -> str:
    """What people call them, under Google's names: v5e-16 is a v5litepod-16, v7x-8 a tpu7x-8."""
    name = re.sub(r"^tpu-", "", name.strip().lower())
    return re.sub(r"^v7x?-", "tpu7x-", re.sub(r"^v5(e|lite|litepod)-?", "v5litepod-", name))


def _no_size(name: str, generation: dict[str, Any]) -> str:
    """Names the sizes there are: all, or of very many those up to 1,024 and the largest."""
    sizes = [int(size) for size in generation["sizes"]["topologies"]]
    listed = [str(size) for size in sizes if len(sizes) <= 16 or size <= 1024]
    rest = [] if len(listed) == len(sizes) else [f"... {sizes[-1]}"]
    kind = generation["type"]
    return (
        f"'{name}' does not exist; {kind['prefix']}N counts {kind['counts']}, and N can be "
        f"{', '.join(listed + rest)}"
    )


@cache
def _table() -> dict[str, Any]:
    table: dict[str, Any] = json.loads(CHIPS.read_text())
    return table
