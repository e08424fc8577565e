"""Measures training time and counts compilations, a metric that shows accidental recompilation."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import jax

from research.training.state import Progress

_COMPILED = "/jax/core/compile/backend_compile_duration"


class CompilationCounter:
    """A context manager that counts the compilations of this process, and their seconds."""

    def __init__(self) -> None:
        self.count, self.seconds = 0, 0.0

    def __enter__(self) -> "CompilationCounter":
        jax.monitoring.register_event_duration_secs_listener(self._on_event)
        return self

    def __exit__(self, *_: object) -> None:
        jax.monitoring.unregister_event_duration_listener(self._on_event)

    def _on_event(self, event: str, duration_secs: float, **kwargs: str | int) -> None:
        if event == _COMPILED:
            self.count += 1
            self.seconds += duration_secs


class Clock:
    """Seconds of training over all restarts, without compilation, evaluation and saving.

    Args:
      compilations: counts those of this start.
      progress: that of the earlier starts.
      opened: `time.perf_counter()` when this start opened its data.
    """

    def __init__(self, compilations: CompilationCounter, progress: Progress, opened: float):
        self._compilations = compilations
        self._trained, self._compiled = progress.seconds, progress.compile_seconds
        self._lap = self._trained
        # Runs of earlier versions have no total.
        before = max(progress.total_seconds, progress.seconds + progress.compile_seconds)
        self._opened = opened - before
        self._resume()

    @property
    def seconds(self) -> float:
        """Seconds of training."""
        return self._trained + time.perf_counter() - self._began - self._compiling

    @property
    def compile_seconds(self) -> float:
        """Seconds of compilation."""
        return self._compiled + self._compilations.seconds

    @property
    def total_seconds(self) -> float:
        """Seconds of all starts together."""
        return time.perf_counter() - self._opened

    def lap(self, examples: int) -> dict[str, float]:
        """Returns the throughput of `examples` since the last lap, and totals."""
        before, self._lap = self._lap, self.seconds
        return {
            "examples_per_second": examples / max(self._lap - before, 1e-9),
            "seconds": self.seconds,
            "compilations": self._compilations.count,
        }

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Excludes the time of a `with` block."""
        self._trained = self.seconds
        self._resume()
        try:
            yield
        finally:
            self._resume()

    @property
    def _compiling(self) -> float:
        return self._compilations.seconds - self._compiled_before

    def _resume(self) -> None:
        self._began, self._compiled_before = time.perf_counter(), self._compilations.seconds
