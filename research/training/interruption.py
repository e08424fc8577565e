"""Handling of SIGTERM, as sent at preemption, and Ctrl-C: the run saves a checkpoint and exits."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

from jax.experimental import multihost_utils

from research.common import interrupts
from research.common.processes import are_several


class Interruption:
    """A context manager that handles both signals; all processes of a run stop after the same step.

    Attributes:
      signal_number: of the signal that was received; None if there was none, and with several
        processes, which all stop as after SIGTERM.
    """

    def __init__(self) -> None:
        self.signal_number: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Interruption":
        if threading.current_thread() is threading.main_thread():  # only this one may set a handler
            # With several processes JAX handles SIGTERM.
            numbers = [signal.SIGINT] if are_several() else [signal.SIGTERM, signal.SIGINT]
            for number in numbers:
                if signal.getsignal(number) is not signal.SIG_IGN:  # that of `nohup`
                    self._before[number] = signal.signal(number, self._on_signal)
            interrupts.SAVING.set()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        interrupts.SAVING.clear()
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def is_due(self, step: int) -> bool:
        """Returns whether to save and exit; every process calls it after every step."""
        if are_several():
            return multihost_utils.reached_preemption_sync_point(step)
        return self.signal_number is not None

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if are_several():
            signal.raise_signal(signal.SIGTERM)  # JAX informs the other processes
        else:
            self.signal_number = self.signal_number or number
