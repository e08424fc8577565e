"""Time in which nothing is waited for: it passes when somebody sleeps, event by event."""

import heapq
import itertools
from collections.abc import Callable
from typing import Protocol


class Clock(Protocol):
    """What the twin asks of time; all in seconds, `now` since 1970."""

    def now(self) -> float: ...

    def sleep(self, seconds: float) -> None: ...

    def at(self, when: float, action: Callable[[], None]) -> None:
        """Calls `action` at that time; it must not sleep."""


class VirtualClock:
    """Jumps from event to event while somebody sleeps. Events of the same time keep their order."""

    def __init__(self, start: float = 1.8e9):
        self._now = start
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._acting = False

    def now(self) -> float:
        return self._now

    def at(self, when: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._events, (max(when, self._now), next(self._order), action))

    def sleep(self, seconds: float) -> None:
        until = self._now + max(0.0, seconds)
        if self._acting:
            raise RuntimeError("an event cannot sleep")
        self._acting = True
        try:
            while self._events and self._events[0][0] <= until:
                self._now, _, action = heapq.heappop(self._events)
                action()
        finally:
            self._acting = False
        self._now = max(self._now, until)
