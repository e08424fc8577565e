"""SIGTERM, as a machine that is taken away sends it: the run is saved first, then it ends."""

import signal
import threading
from types import FrameType, TracebackType

from jax.experimental import multihost_utils

from research.hardware.processes import are_several

EXIT_CODE = 128 + signal.SIGTERM  # as a shell tells of a process that the signal ended


class Interrupted(Exception):
    """The run was asked to end, and is saved."""

    def __init__(self, step: int):
        super().__init__(f"stopped at step {step} and saved; the same command resumes")
        self.step = step


class Interruption:
    """Hears SIGTERM while it is open. Several processes agree on a step that all of them reach."""

    def __init__(self) -> None:
        self._asked = False

    def __enter__(self) -> "Interruption":
        # Where there are several, JAX itself hears the signal. Only a main thread may.
        self._hears = not are_several() and threading.current_thread() is threading.main_thread()
        if self._hears:
            self._before = signal.signal(signal.SIGTERM, self._hear)
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        if self._hears:
            signal.signal(signal.SIGTERM, self._before)

    def is_due(self, step: int) -> bool:
        """Whether to save and end after this step. To be asked after each, by all processes."""
        if are_several():
            return multihost_utils.reached_preemption_sync_point(step)
        return self._asked

    def _hear(self, number: int, frame: FrameType | None) -> None:
        self._asked = True
