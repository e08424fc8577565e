"""What the twin's zones offer: which slices there are, and of how many machines each is made."""

import math
from typing import NamedTuple

from tests.launch.twin.command import Refusal

RUNTIMES = {
    "v2": "tpu-ubuntu2204-base",
    "v3": "tpu-ubuntu2204-base",
    "v4": "tpu-ubuntu2204-base",
    "v5litepod": "v2-alpha-tpuv5-lite",
    "v5p": "v2-alpha-tpuv5",
    "v6e": "v2-alpha-tpuv6e",
}
ZONES = {
    "v2": "us-central1-b us-central1-c us-central1-f europe-west4-a asia-east1-c",
    "v3": "us-central1-a us-central1-b us-central1-f europe-west4-a",
    "v4": "us-central2-b",
    "v5litepod": "us-central1-a us-east1-c us-east5-b us-south1-a us-west1-c us-west4-a "
    "us-west4-b europe-west4-b asia-southeast1-b",
    "v5p": "us-central1-a us-east5-a europe-west4-b",
    "v6e": "us-central1-b us-central2-b us-east1-d us-east5-a us-east5-b us-south1-a "
    "europe-west4-a asia-northeast1-b southamerica-west1-a",
}
CORES_PER_CHIP = {"v2": 2, "v3": 2, "v4": 2, "v5litepod": 1, "v5p": 2, "v6e": 1}


class Shape(NamedTuple):
    """A slice."""

    generation: str
    chips: int
    workers: int


def shape(accelerator: str, zone: str) -> Shape:
    """The slice of that type, such as v5litepod-16.

    Raises:
      Refusal: the zone has none.
    """
    generation, _, size = accelerator.partition("-")
    if zone not in ZONES.get(generation, "").split() or not size.isdigit():
        raise Refusal(
            "INVALID_ARGUMENT: Cloud TPU received a bad request. the accelerator "
            f"{accelerator} was not found in zone {zone} [EID: 0x1]"
        )
    chips = int(size) // CORES_PER_CHIP[generation]
    return Shape(generation, chips, hosts(generation, chips))


def shape_of_topology(generation: str, topology: str, zone: str) -> Shape:
    """The slice of a topology such as 2x2x2, as --type and --topology ask for it."""
    chips = math.prod(int(side) for side in topology.split("x"))
    return shape(f"{generation}-{chips * CORES_PER_CHIP[generation]}", zone)


def hosts(generation: str, chips: int) -> int:
    """Machines of a slice: four chips each, but for the one with eight."""
    if generation in ("v5litepod", "v6e") and chips <= 8:
        return 1
    return max(1, chips // 4)


def check_runtime(generation: str, version: str) -> None:
    """Refuses an image that is not for that generation.

    Raises:
      Refusal: it is not.
    """
    if RUNTIMES[generation] != version:
        raise Refusal(
            "INVALID_ARGUMENT: Cloud TPU received a bad request. the runtime version "
            f"{version} is not for {generation} [EID: 0x2]"
        )
