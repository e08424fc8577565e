"""The phase of a launch, and for how long the launcher has observed it."""

from __future__ import annotations

from collections.abc import Callable

from launch.gcloud import LocalHost

MAX_POLL_SECONDS = 150.0  # a poll takes no longer; after a longer gap the local host was asleep

LogEvent = Callable[[str, str], None]
"""Logs an event, given its name and its text."""


class Phases:
    """Logs each new phase once. Its clock stops while the local host is asleep.

    Args:
      local_host: provides the time.
      log: receives an event per new phase.
    """

    def __init__(self, local_host: LocalHost, log: LogEvent):
        self._local_host, self._log = local_host, log
        self.began = self._updated_at = local_host.now()
        """Unix time at which this attempt began."""

        self.now = self.since = 0.0
        """Observed seconds until now, and until the phase began."""

        self.phase = ""

    def update(self) -> None:
        """Advances the clock; called at every poll."""
        now = self._local_host.now()
        self.now += min(now - self._updated_at, MAX_POLL_SECONDS)
        self._updated_at = now

    def enter(self, phase: str, text: str) -> None:
        """Sets the phase, and logs it if it is new."""
        if phase != self.phase:
            self.phase, self.since = phase, self.now
            self._log(phase, text)

    def longer_than(self, seconds: float) -> bool:
        """Returns whether the current phase has been observed for longer than `seconds`."""
        return self.now - self.since > seconds
