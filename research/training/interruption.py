"""Handling of SIGTERM, as sent at preemption: the run saves a checkpoint and exits."""

import signal
import threading
from types import FrameType, TracebackType

from jax.experimental import multihost_utils

from research.common.processes import are_several


class Interruption:
    """A context manager that handles SIGTERM; all processes of a run stop after the same step."""

    def __init__(self) -> None:
        self._requested = False

    def __enter__(self) -> "Interruption":
        # With several processes JAX handles the signal. Only the main thread may set a handler.
        self._handles = not are_several() and threading.current_thread() is threading.main_thread()
        if self._handles:
            self._before = signal.signal(signal.SIGTERM, self._on_signal)
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        if self._handles:
            signal.signal(signal.SIGTERM, self._before)

    def is_due(self, step: int) -> bool:
        """Returns whether to save and exit; every process calls it after every step."""
        if are_several():
            return multihost_utils.reached_preemption_sync_point(step)
        return self._requested

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._requested = True
