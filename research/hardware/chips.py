"""TPU generations: peak performance, memory, slice types and list prices.

This module is the only reader of `chips.json`, which names the source of each fact. The launcher
imports it on machines without JAX, so it needs Python 3.9 and the standard library alone.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_TABLE = Path(__file__).with_name("chips.json")


@dataclass(frozen=True)
class Price:
    """A list price in US dollars per chip and hour, without discounts and taxes."""

    dollars: float

    region: str
    """The Google Cloud region to which the price applies."""

    date: str
    """The date on which the price was read from `source`, as YYYY-MM-DD."""

    source: str


@dataclass(frozen=True)
class Offer:
    """The zones of one region that offer a generation, and its prices there."""

    zones: tuple[str, ...]

    hosts: str
    """The slices offered: "one" host, "several" hosts, or "any" number of hosts."""

    on_demand: Price | None
    """None if unknown."""

    spot: Price | None
    """None if unknown."""


@dataclass(frozen=True)
class SliceTypes:
    """The accelerator types of one generation, as Google Cloud names and builds them."""

    prefix: str
    """The accelerator type without its size, such as "v5litepod-"."""

    counts: str
    """The unit of the size in an accelerator type: "cores" (two per chip) or "chips"."""

    api: str
    """The API that creates slices: "tpu" (Cloud TPU) or "compute" (Compute Engine)."""

    runtime_version: str
    """The TPU software version; for Compute Engine the image family."""

    machine_types: Mapping[str, str] | None
    """Compute Engine machine type by chips per host; None if the API chooses it."""

    multislice: bool
    """Whether several slices can train together over the data center network."""

    chips_per_host: int

    single_host_chips: tuple[int, ...]
    """The numbers of chips for which a slice has a single host."""

    topologies: Mapping[str, str | None]
    """Topology such as "4x4" by size; None if there are several or it is unknown."""


@dataclass(frozen=True)
class Chip:
    """One TPU generation."""

    generation: str
    """v2, v3, v4, v5e, v5p, v6e or tpu7x."""

    device_kinds: tuple[str, ...]
    """The values of `jax.Device.device_kind` for this generation."""

    devices_per_chip: int
    """The number of JAX devices per chip."""

    bf16_tflops: float
    """Peak bfloat16 performance per chip, in 10^12 operations per second."""

    hbm_gib: float

    hbm_gb_per_s: float

    usable_hbm_gib: float
    """Memory that programs can use, per JAX device."""

    clock_ghz: float

    tensor_cores: int
    """Cores per chip, each with its own matrix and vector units."""

    link_gb_per_s: float
    """Interconnect with the neighbouring chips, of all links in one direction, in 10^9 bytes/s."""

    torus_dimensions: int
    """2 or 3."""

    watts: float | None
    """Power per chip, as published; None if it is not."""

    slice_types: SliceTypes

    offers: tuple[Offer, ...]


@dataclass(frozen=True)
class Processor:
    """A GPU, or a server CPU, to compare TPUs with."""

    name: str

    tflops: float
    """Peak in 10^12 operations per second without sparsity: of a GPU in 16 bits, of a CPU in 32."""

    memory_gb: float

    gb_per_s: float
    """Peak memory bandwidth in 10^9 bytes per second."""

    watts: float | None
    """Power, as published; None if it is not."""

    price: Price | None
    """Of one accelerator, or of the whole CPU, per hour; None if unknown."""

    device_kinds: tuple[str, ...] = ()
    """The values of `jax.Device.device_kind`; none for CPUs, whose kind is not their model."""


@functools.cache
def processors() -> tuple[Processor, ...]:
    """Returns the processors that are compared with TPUs."""
    table = _table()
    return tuple(_processor(one, table["sources"]) for one in table["processors"])


@functools.cache
def chips() -> tuple[Chip, ...]:
    """Returns all generations, the oldest first."""
    table = _table()
    return tuple(_chip(generation, table["sources"]) for generation in table["generations"])


def chip_of(device_kind: str) -> Chip | None:
    """Returns the TPU generation of a JAX device kind; None for other or unlisted devices."""
    return next((chip for chip in chips() if device_kind in chip.device_kinds), None)


def peak_flops(device_kind: str) -> float | None:
    """Returns the peak of a JAX device in operations per second, in 16 bits on a TPU or GPU.

    None for other and unlisted devices.
    """
    if chip := chip_of(device_kind):
        return chip.bf16_tflops * 1e12 / chip.devices_per_chip
    listed = (one for one in processors() if device_kind in one.device_kinds)
    return next((one.tflops * 1e12 for one in listed), None)


def list_price(
    offers: Iterable[Offer], zone: str | None = None, spot: bool = False
) -> Price | None:
    """Returns the highest list price in a zone, or of all zones if its own is unknown.

    An estimate is therefore an upper bound, and a limit in dollars holds in every zone.

    Args:
      offers: the offers to choose from.
      zone: such as "us-central1-a"; None if the zone is unknown.
      spot: return the price of Spot capacity instead of on-demand capacity.

    Returns:
      The price, whose `region` is where it applies; None if no offer has a known price.
    """
    priced = [
        (offer.zones, price)
        for offer in offers
        if (price := offer.spot if spot else offer.on_demand) is not None
    ]
    in_zone = [price for zones, price in priced if zone in zones]
    return max(
        in_zone or [price for _, price in priced], key=lambda price: price.dollars, default=None
    )


def cost(seconds: float, device_kind: str, num_devices: int) -> dict[str, Any]:
    """Estimates the cost of TPU devices by the highest on-demand list price of their generation.

    Args:
      seconds: the time for which the devices were used.
      device_kind: `jax.Device.device_kind` of the devices.
      num_devices: the number of JAX devices, of which a chip may have two.

    Returns:
      `dollars`, `dollars_per_hour` and `price` (the basis of the estimate, as text); empty if the
      devices are not TPUs or no price of their generation is known.
    """
    chip = chip_of(device_kind)
    price = list_price(chip.offers) if chip else None
    if chip is None or price is None:
        return {}
    hourly = price.dollars * num_devices / chip.devices_per_chip
    basis = f"highest list price on demand, in {price.region}, {price.date}"
    return {"dollars": hourly * seconds / 3600, "dollars_per_hour": hourly, "price": basis}


@functools.cache
def _table() -> dict[str, Any]:
    content: dict[str, Any] = json.loads(_TABLE.read_text(encoding="utf-8"))
    return content


def _processor(processor: dict[str, Any], sources: dict[str, dict[str, str]]) -> Processor:
    peak, offer = processor["peak"], processor["offer"]
    return Processor(
        name=processor["name"],
        tflops=peak["tflops"],
        memory_gb=peak["memory_gb"],
        gb_per_s=peak["gb_per_s"],
        watts=peak["watts"],
        price=_price(offer, "on_demand", sources[offer["source"]]),
        device_kinds=tuple(processor["device_kinds"]),
    )


def _chip(generation: dict[str, Any], sources: dict[str, dict[str, str]]) -> Chip:
    device, peak = generation["device"], generation["peak"]
    return Chip(
        generation=generation["generation"],
        device_kinds=tuple(device["kinds"]),
        devices_per_chip=device["per_chip"],
        bf16_tflops=peak["bf16_tflops"],
        hbm_gib=peak["hbm_gib"],
        hbm_gb_per_s=peak["hbm_gb_per_s"],
        usable_hbm_gib=generation["usable"]["hbm_gib_per_device"],
        clock_ghz=generation["core"]["clock_ghz"],
        tensor_cores=generation["core"]["tensor_cores"],
        link_gb_per_s=generation["links"]["gb_per_s"],
        torus_dimensions=generation["links"]["torus_dimensions"],
        watts=generation["power"]["watts"],
        slice_types=_slice_types(generation),
        offers=tuple(_offer(offer, sources[offer["source"]]) for offer in generation["offers"]),
    )


def _slice_types(generation: dict[str, Any]) -> SliceTypes:
    kind, hosts = generation["type"], generation["hosts"]
    return SliceTypes(
        prefix=kind["prefix"],
        counts=kind["counts"],
        api=kind["api"],
        runtime_version=kind["runtime_version"],
        machine_types=kind["machine_types"],
        multislice=kind["multislice"],
        chips_per_host=hosts["chips_per_host"],
        single_host_chips=tuple(hosts["single_host_chips"]),
        topologies=generation["sizes"]["topologies"],
    )


def _offer(offer: dict[str, Any], source: dict[str, str]) -> Offer:
    on_demand, spot = (_price(offer, capacity, source) for capacity in ("on_demand", "spot"))
    return Offer(tuple(offer["zones"]), offer["hosts"], on_demand, spot)


def _price(offer: dict[str, Any], capacity: str, source: dict[str, str]) -> Price | None:
    if offer[capacity] is None:
        return None
    return Price(offer[capacity], offer["region"], source["read"], source["about"])
