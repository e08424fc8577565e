"""What the launcher asks of a cloud, whichever of Google's two interfaces it goes through."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from launch.gcloud import Argv, Laptop
from launch.plan import Plan

SCOPE = "https://www.googleapis.com/auth/cloud-platform"  # the machines' own rights
TIMER = Path(__file__).parent / "worker" / "deadman.py"


class State(enum.Enum):
    """Where all that a plan stands for is, taken together."""

    ABSENT = "absent"  # nothing is there, and nothing costs
    WAITING = "waiting for capacity"
    CREATING = "being created"
    READY = "ready"
    LOST = "taken away"  # preempted, suspended, stopped
    FAILED = "failed"
    DELETING = "being deleted"
    REMAINS = "gone but for what is free of charge"


@dataclass(frozen=True)
class Resources:
    """What is there of a plan."""

    state: State
    detail: str = ""
    """In the cloud's own words."""

    machines: tuple[str, ...] = ()
    """The workers' names, where they are machines of their own to the cloud."""


class Cloud(Protocol):
    """Command lines for a plan. Nothing in here runs anything but what `describe` reads."""

    plan: Plan

    def create(self, metadata: Path) -> list[Argv]:
        """Creates all, in order. `metadata` is the file that holds the plan."""

    def delete(self) -> list[Argv]:
        """Deletes all, in order. To delete what is not there is no harm."""

    def describe(self, laptop: Laptop) -> Resources:
        """Looks at all.

        Raises:
          GcloudError: it could not be looked at; that there is nothing is no error.
        """

    def ssh(self, command: str, resources: Resources) -> list[Argv]:
        """Runs a shell command on each worker, or opens a terminal if it is empty.

        One command line for each: gcloud's own `--worker=all` keeps the answers of several apart
        only by `--output-directory`, which fails in the versions that were read.
        """


def metadata_flag(metadata: Path) -> str:
    """The flag that gives machines their plan, and the timer that starts with them."""
    return f"--metadata-from-file=polymath={metadata},startup-script={TIMER}"
