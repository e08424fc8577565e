"""Handles SIGTERM, which a preempted machine receives: the run is saved, then it ends."""

import signal
import threading
from types import FrameType, TracebackType

from jax.experimental import multihost_utils

from research.common.processes import are_several


class Interruption:
    """Catches SIGTERM while entered. Several processes agree on a step that all of them reach."""

    def __init__(self) -> None:
        self._requested = False

    def __enter__(self) -> "Interruption":
        # JAX itself handles the signal of several processes. Only a main thread may handle one.
        self._handles = not are_several() and threading.current_thread() is threading.main_thread()
        if self._handles:
            self._before = signal.signal(signal.SIGTERM, self._on_signal)
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        if self._handles:
            signal.signal(signal.SIGTERM, self._before)

    def is_due(self, step: int) -> bool:
        """Whether to save and end after this step; every process calls it after every step."""
        if are_several():
            return multihost_utils.reached_preemption_sync_point(step)
        return self._requested

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._requested = True
