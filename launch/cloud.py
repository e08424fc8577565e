"""The interface of a cloud API to the launcher: Cloud TPU and Compute Engine implement it."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from launch.gcloud import Argv, LocalHost
from launch.plan import Plan

SCOPE = "https://www.googleapis.com/auth/cloud-platform"  # of the VMs' service account
TIMER = Path(__file__).parent / "worker" / "deadman.py"


class State(enum.Enum):
    """The combined state of all resources of a plan."""

    ABSENT = "absent"  # no resource exists
    WAITING = "waiting for capacity"
    CREATING = "being created"
    READY = "ready"
    LOST = "lost"  # preempted, suspended, stopped
    FAILED = "failed"
    DELETING = "being deleted"
    REMAINS = "deleted except for resources that are free of charge"


@dataclass(frozen=True)
class Resources:
    """The resources of a plan that exist."""

    state: State
    detail: str = ""
    """The states that the cloud reports."""

    machines: tuple[str, ...] = ()
    """The VM names of the workers, for Compute Engine."""


class Cloud(Protocol):
    """The gcloud commands for a plan. Only `describe` runs any."""

    plan: Plan

    def create(self, metadata: Path) -> list[Argv]:
        """Returns the commands that create all resources, with the plan in the file `metadata`."""

    def delete(self) -> list[Argv]:
        """Returns the commands that delete all resources, whether or not they exist."""

    def describe(self, local_host: LocalHost) -> Resources:
        """Returns the state of all resources.

        Raises:
          GcloudError: a command failed; missing resources are not an error.
        """

    def ssh(self, command: str, resources: Resources) -> list[Argv]:
        """Returns one SSH command per worker, which opens a terminal if `command` is empty.

        gcloud's `--worker=all` separates the workers' output only with `--output-directory`, which
        does not work in gcloud 528.
        """


def metadata_flag(metadata: Path) -> str:
    """Returns the flag that sets the VMs' plan and startup script."""
    return f"--metadata-from-file=polymath={metadata},startup-script={TIMER}"
