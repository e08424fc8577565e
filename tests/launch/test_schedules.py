"""Launches through random failures in virtual time: nothing is leaked or lost, every one ends."""

import multiprocessing

import pytest

from tests.launch.schedules import trial


@pytest.mark.parametrize(
    "first", [0, *(pytest.param(n, marks=pytest.mark.slow) for n in (50, 100, 150))]
)
def test_schedules_of_failures(first):
    assert [one for one in map(trial, range(first, first + 50)) if one.wrong] == []


@pytest.mark.slow
def test_ten_thousand_schedules_of_failures():
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        trials = list(pool.imap_unordered(trial, range(10_000), chunksize=50))
    assert [one for one in trials if one.wrong] == []
    assert {fault for one in trials for fault in one.struck} >= {"preemption", "half node", "crash"}
