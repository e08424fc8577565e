"""What is to be created, and what is to run on it: decided once, and then carried about."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from dataclasses import dataclass
from typing import Any

from launch.accelerators import Slice, parse
from research.common.errors import UserError

_LEAST = {
    "slices": 1,
    "tries": 1,
    "max_hours": 0.001,
    "max_wait_hours": 0.001,
    "lease_minutes": 2,  # to boot
    "stall_minutes": 0.05,
}
METADATA = "polymath"  # the key of an instance's metadata under which its plan lies


@dataclass(frozen=True)
class Plan:
    """A run on one or more slices. It lies in the machines' metadata, so any laptop can go on.

    Raises:
      UserError: a value is wrong, or two do not go together.
    """

    name: str
    """Of the request, of its nodes and of all else that is created for it."""

    project: str
    """Of Google Cloud."""

    zone: str
    """Where, such as us-central1-a."""

    accelerator: str
    """The slice, such as v5litepod-16."""

    slices: int = 1
    """How many of them; more than one are joined over the data centre's network."""

    capacity: str = "on-demand"
    """What is paid: on-demand; spot, which may be taken away; or reserved."""

    queued: bool = True
    """Wait in the queue for capacity. Otherwise it is there now or refused."""

    runtime_version: str = ""
    """The machines' image; "": that of the accelerator."""

    network: str = ""
    """VPC network; "": the project's default."""

    subnetwork: str = ""
    """Subnetwork; "": the network's own."""

    service_account: str = ""
    """Whom the machines act as; "": the project's default. It must be able to delete them."""

    internal_ips: bool = False
    """No address on the internet; SSH goes through IAP, packages come through Cloud NAT."""

    max_hours: float = 24.0
    """The cap on the machines' life, over all attempts."""

    max_wait_hours: float = 24.0
    """How long a request may wait for capacity."""

    lease_minutes: float = 15.0
    """The machines are deleted when for so long neither training nor laptop has shown life."""

    stall_minutes: float = 20.0
    """A training that has begun and makes no step for so long is ended."""

    tries: int = 5
    """How often machines may be created, this time included, before the run is given up."""

    workdir: str = ""
    """The run's folder, gs://BUCKET/PATH."""

    data: str = ""
    """TFDS data sets, gs://BUCKET/PATH, that each worker copies to its disk; "": none."""

    commit: str = ""
    """Of the code; with "-dirty" where uncommitted changes were taken along."""

    arguments: tuple[str, ...] = ()
    """Of `python -m research.train`; none: the machines are for working on by hand."""

    attempt: int = 1
    """Counts the creations for this workdir."""

    spent_hours: float = 0.0
    """What earlier attempts have used of `max_hours`."""

    def __post_init__(self):
        if not re.fullmatch(r"[a-z]([a-z0-9-]{0,38}[a-z0-9])?", self.name):
            raise UserError(
                f"'{self.name}' cannot be a name; use at most 40 of a-z, 0-9 and -, a letter first"
            )
        for key, least in _LEAST.items():
            if not least <= getattr(self, key) < math.inf:  # which no NaN is
                flag = f"--{key.replace('_', '-')}"
                raise UserError(f"{flag}={getattr(self, key):g} must be at least {least:g}")
        if self.slices > 1 and not self.slice.multislice:
            raise UserError(f"TPU {self.slice.generation} cannot be joined; use --slices=1")
        if self.slices > 1 and not self.queued and self.slice.api == "tpu":
            raise UserError("several slices come through the queue only; leave out --direct")
        if self.internal_ips and not self.queued:
            raise UserError("SSH goes through IAP for queued requests only; leave out --direct")

    @property
    def slice(self) -> Slice:
        """Facts of the accelerator."""
        return parse(self.accelerator)

    @property
    def image(self) -> str:
        """The machines' image."""
        return self.runtime_version or self.slice.runtime_version

    @property
    def chips(self) -> int:
        """In all slices."""
        return self.slices * self.slice.chips

    @property
    def workers(self) -> int:
        """Machines in all slices, with one training process each."""
        return self.slices * self.slice.hosts

    @property
    def nodes(self) -> tuple[str, ...]:
        """The slices' names."""
        if self.slices == 1:
            return (self.name,)
        return tuple(f"{self.name}-{index}" for index in range(self.slices))

    @property
    def hours(self) -> float:
        """What is left of the cap for this attempt."""
        return max(0.0, self.max_hours - self.spent_hours)

    @property
    def dollars_per_hour(self) -> float | None:
        """List price of all slices; None: unknown."""
        price = self.slice.price(self.zone, spot=self.capacity == "spot")
        return None if price is None else price.dollars * self.chips

    def again(self, used_hours: float) -> Plan:
        """The next attempt, after one that lived for so long."""
        return dataclasses.replace(
            self,
            attempt=self.attempt + 1,
            tries=self.tries - 1,
            spent_hours=self.spent_hours + used_hours,
        )

    def metadata(self, delete: list[list[str]], begin: str) -> str:
        """The JSON that the machines carry: the plan, and what they do by themselves.

        Args:
          delete: the commands that delete them, for the dead man's timer.
          begin: the shell command that sets up and starts, on a machine's first boot; "": none.
        """
        timer = {"hours": self.hours, "lease_seconds": self.lease_minutes * 60}
        doing = {"delete": delete, "begin": begin}
        return json.dumps(dataclasses.asdict(self) | timer | doing)

    @classmethod
    def from_metadata(cls, text: str) -> Plan:
        """The plan that `metadata` wrote, by this version of the launcher or an older one.

        Raises:
          UserError: it is none.
        """
        try:
            values: dict[str, Any] = json.loads(text)
            known = {field.name for field in dataclasses.fields(cls)} & set(values)
            plan = {key: values[key] for key in known}
            return cls(**plan | {"arguments": tuple(plan.get("arguments", ()))})
        except (ValueError, TypeError) as error:
            raise UserError(f"the machines' plan is unreadable ({error}); delete them") from None
