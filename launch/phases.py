"""The phase a launch is in, and for how long somebody has been looking at it."""

from __future__ import annotations

from collections.abc import Callable

from launch.gcloud import Laptop

LOOK_SECONDS = 150.0  # a look takes no longer; between looks further apart nobody was looking

Tell = Callable[[str, str], None]
"""Tells of an event: its kind, and what there is to say."""


class Phases:
    """Tells of each new phase once. Its clock stands still while nobody looks.

    Args:
      laptop: whose time it is.
      tell: is told of every new phase.
    """

    def __init__(self, laptop: Laptop, tell: Tell):
        self._laptop, self._tell = laptop, tell
        self.began = self._looked_at = laptop.now()
        """When this attempt began, in seconds since 1970."""

        self.now = self.since = 0.0
        """Seconds that somebody looked: until now, and until the phase began."""

        self.phase = ""

    def look(self) -> None:
        """Somebody looks again."""
        now = self._laptop.now()
        self.now += min(now - self._looked_at, LOOK_SECONDS)
        self._looked_at = now

    def enter(self, phase: str, text: str) -> None:
        """Notes the phase that the launch is in."""
        if phase != self.phase:
            self.phase, self.since = phase, self.now
            self._tell(phase, text)

    def lasts(self, seconds: float) -> bool:
        """Whether the present phase was seen to last for so long."""
        return self.now - self.since > seconds
