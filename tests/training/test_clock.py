import types

import pytest

from research.training import clock as clock_module
from research.training.clock import Clock, CompilationCounter
from research.training.state import Progress


@pytest.fixture
def time(monkeypatch):
    """A clock that only the tests advance, by `time.now`."""
    time = types.SimpleNamespace(now=100.0)
    time.perf_counter = lambda: time.now
    monkeypatch.setattr(clock_module, "time", time)
    return time


def test_seconds_exclude_compilations_and_pauses(time):
    compilations = CompilationCounter()
    clock = Clock(compilations, Progress(seconds=5.0, compile_seconds=1.0), 98.0)
    time.now += 10
    compilations.seconds += 4
    assert (clock.seconds, clock.compile_seconds) == (11, 5)
    with clock.paused():
        time.now += 100
        compilations.seconds += 50
    time.now += 2
    assert (clock.seconds, clock.compile_seconds) == (13, 55)
    assert clock.total_seconds == (5 + 1) + (100 - 98) + 10 + 100 + 2


def test_the_speed_is_that_since_the_last_lap(time):
    clock = Clock(CompilationCounter(), Progress(seconds=7.0), 100.0)
    time.now += 10
    assert clock.lap(40)["examples_per_second"] == 4
    time.now += 5
    lap = clock.lap(60)
    assert (lap["examples_per_second"], lap["seconds"]) == (12, 22)
