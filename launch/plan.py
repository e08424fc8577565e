"""The plan of a launch: the slices to create and the training to run on them."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from dataclasses import dataclass
from typing import Any

from launch.accelerators import Slice, parse
from research.common.errors import UserError

_MINIMUM = {
    "slices": 1,
    "tries": 1,
    "max_hours": 0.001,
    "max_wait_hours": 0.001,
    "lease_minutes": 2,  # the VMs need about two to boot
    "stall_minutes": 0.05,
}
METADATA = "polymath"  # the key of the plan in a VM's metadata


@dataclass(frozen=True)
class Plan:
    """A run on one or more slices. The VMs' metadata contain it, so any machine can attach.

    Raises:
      UserError: a value is invalid, or two are incompatible.
    """

    name: str
    """The name of the queued resource, its nodes and all other resources of the launch."""

    project: str
    """The Google Cloud project."""

    zone: str
    """The Google Cloud zone, such as us-central1-a."""

    accelerator: str
    """The accelerator type of a slice, such as v5litepod-16."""

    slices: int = 1
    """The number of slices; several train together over the data center network."""

    capacity: str = "on-demand"
    """The provisioning model: on-demand, spot (preemptible), reserved or flex-start."""

    queued: bool = True
    """Whether to wait in the queue for capacity; otherwise missing capacity is an error."""

    runtime_version: str = ""
    """The TPU software version; "" selects the default of the accelerator type."""

    network: str = ""
    """The VPC network; "" selects the project's default."""

    subnetwork: str = ""
    """The subnetwork; "" selects the network's default."""

    service_account: str = ""
    """The VMs' service account, which may delete them; "" selects the default."""

    internal_ips: bool = False
    """Whether VMs have no external IP: SSH then uses IAP, and packages need Cloud NAT."""

    max_hours: float = 24.0
    """The limit on the VMs' lifetime, summed over all attempts."""

    max_wait_hours: float = 24.0
    """The limit on the wait for capacity."""

    lease_minutes: float = 15.0
    """The VMs delete themselves after this time without training and launcher."""

    stall_minutes: float = 20.0
    """A training without a step for this time is stopped."""

    tries: int = 5
    """The maximum number of attempts to create VMs, including this one."""

    workdir: str = ""
    """The workdir of the run, gs://BUCKET/PATH."""

    data: str = ""
    """TFDS datasets, gs://BUCKET/PATH, that each worker copies to its disk; "" for none."""

    commit: str = ""
    """The commit of the code, with the suffix "-dirty" if it includes uncommitted changes."""

    arguments: tuple[str, ...] = ()
    """Arguments of `python -m research.train`; empty for interactive use."""

    attempt: int = 1
    """The number of this attempt in its workdir, from 1."""

    spent_hours: float = 0.0
    """The part of `max_hours` that earlier attempts used."""

    def __post_init__(self):
        if not re.fullmatch(r"[a-z]([a-z0-9-]{0,38}[a-z0-9])?", self.name):
            raise UserError(
                f"invalid name '{self.name}': expected at most 40 of a-z, 0-9 and -, a letter first"
            )
        for key, least in _MINIMUM.items():
            if not least <= getattr(self, key) < math.inf:  # also rejects NaN
                flag = f"--{key.replace('_', '-')}"
                raise UserError(
                    f"invalid {flag}={getattr(self, key):g}: expected at least {least:g}"
                )
        if self.slices > 1 and not self.slice.multislice:
            raise UserError(
                f"invalid --slices: TPU {self.slice.generation} has no multislice; use --slices=1"
            )
        if self.slices > 1 and not self.queued and self.slice.api == "tpu":
            raise UserError("invalid --direct: several slices need the queue; remove --direct")
        if self.internal_ips and not self.queued:
            raise UserError("invalid --direct: SSH through IAP needs the queue; remove --direct")

    @property
    def slice(self) -> Slice:
        """The slice of the accelerator type."""
        return parse(self.accelerator)

    @property
    def image(self) -> str:
        """The runtime version or image family of the VMs."""
        return self.runtime_version or self.slice.runtime_version

    @property
    def chips(self) -> int:
        """The number of chips of all slices."""
        return self.slices * self.slice.chips

    @property
    def workers(self) -> int:
        """The number of host VMs of all slices, each with one training process."""
        return self.slices * self.slice.hosts

    @property
    def nodes(self) -> tuple[str, ...]:
        """The names of the TPU nodes, one per slice."""
        if self.slices == 1:
            return (self.name,)
        return tuple(f"{self.name}-{index}" for index in range(self.slices))

    @property
    def hours(self) -> float:
        """The part of `max_hours` that remains for this attempt."""
        return max(0.0, self.max_hours - self.spent_hours)

    @property
    def dollars_per_hour(self) -> float | None:
        """The list price of all slices; None if unknown."""
        price = self.slice.price(self.zone, spot=self.capacity == "spot")
        return None if price is None else price.dollars * self.chips

    def next_attempt(self, used_hours: float) -> Plan:
        """Returns the plan of the next attempt, after VMs that lived for `used_hours`."""
        return dataclasses.replace(
            self,
            attempt=self.attempt + 1,
            tries=self.tries - 1,
            spent_hours=self.spent_hours + used_hours,
        )

    def metadata(self, delete: list[list[str]], begin: str) -> str:
        """Returns the VMs' metadata as JSON: the plan and the settings of the dead man's timer.

        Args:
          delete: the commands by which the timer deletes the VMs.
          begin: the shell script that sets up a VM at its first boot and starts the training; ""
            for none.
        """
        timer = {"hours": self.hours, "lease_seconds": self.lease_minutes * 60}
        doing = {"delete": delete, "begin": begin}
        return json.dumps(dataclasses.asdict(self) | timer | doing)

    @classmethod
    def from_metadata(cls, text: str) -> Plan:
        """Parses the output of `metadata`, of this version of the launcher or another one.

        Raises:
          UserError: the text is not a plan.
        """
        try:
            values: dict[str, Any] = json.loads(text)
            known = {field.name for field in dataclasses.fields(cls)} & set(values)
            plan = {key: values[key] for key in known}
            return cls(**plan | {"arguments": tuple(plan.get("arguments", ()))})
        except (ValueError, TypeError) as error:
            raise UserError(f"cannot read the VMs' plan ({error}); delete them") from None
