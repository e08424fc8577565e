"""Facts of TPU chips: what they can do, and what an hour costs. Source of each: chips.json."""

import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

_TABLE = Path(__file__).with_name("chips.json")


@dataclass(frozen=True)
class Price:
    """US dollars for one chip and one hour, by list and on demand."""

    dollars: float

    region: str
    """Of Google Cloud, where it holds."""

    date: str
    """When it was read, and `source` says where."""

    source: str


@dataclass(frozen=True)
class Chip:
    """One generation of TPUs."""

    generation: str
    """v2, v3, v4, v5e, v5p, v6e or tpu7x."""

    device_kinds: tuple[str, ...]
    """What JAX calls its devices."""

    devices_per_chip: int
    """How many of JAX's devices are one chip."""

    bf16_tflops: float
    """Peak, in 10^12 operations per second."""

    hbm_gib: float

    hbm_gb_per_s: float

    prices: tuple[Price, ...]
    """The first is the one that is shown; none: unknown."""


@functools.cache
def chips() -> tuple[Chip, ...]:
    """All generations, the oldest first."""
    table = json.loads(_TABLE.read_text())
    return tuple(_chip(generation, table["sources"]) for generation in table["generations"])


def chip_of(device_kind: str) -> Chip | None:
    """The generation that JAX calls so; None: it is no TPU, or one that is not in the table."""
    return next((chip for chip in chips() if device_kind in chip.device_kinds), None)


def cost(seconds: float) -> dict[str, Any]:
    """What all of this program's TPU chips cost in that time by list price, and per hour.

    Returns:
      Nothing where the devices are no TPUs, or no price of theirs is known.
    """
    devices = jax.devices()
    chip = chip_of(devices[0].device_kind)
    if chip is None or not chip.prices:
        return {}
    price = chip.prices[0]
    hourly = price.dollars * len(devices) / chip.devices_per_chip
    basis = f"list price on demand in {price.region}, {price.date}"
    return {"dollars": hourly * seconds / 3600, "dollars_per_hour": hourly, "price": basis}


def _chip(generation: dict[str, Any], sources: dict[str, dict[str, str]]) -> Chip:
    device, peak = generation["device"], generation["peak"]
    read = [(offer, sources[offer["source"]]) for offer in generation["offers"]]
    return Chip(
        generation=generation["generation"],
        device_kinds=tuple(device["kinds"]),
        devices_per_chip=device["per_chip"],
        bf16_tflops=peak["bf16_tflops"],
        hbm_gib=peak["hbm_gib"],
        hbm_gb_per_s=peak["hbm_gb_per_s"],
        prices=tuple(
            Price(offer["on_demand"], offer["region"], source["read"], source["about"])
            for offer, source in read
            if offer["on_demand"] is not None
        ),
    )
