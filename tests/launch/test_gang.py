"""The gang's decisions, without processes and clock."""

import itertools

import numpy as np
import pytest

from launch.worker.gang import (
    FAILURE_GRACE,
    LISTEN_SECONDS,
    STACKS_SECONDS,
    Failure,
    Gang,
    Heartbeat,
    root_cause,
    stalled_rank,
)

READER = 'Thread 0x2 (most recent call first):\n  File "c.py", line 9 in read\n\n'
IN_SLEEP = READER + 'Thread 0x1 (most recent call first):\n  File "a.py", line 3 in sleep\n'
IN_WAIT = 'Current thread 0x1 (most recent call first):\n  File "b.py", line 7 in wait\n'


def failure(cause="exit code 1", **fields):
    return {
        "kind": "failure",
        "cause": cause,
        "traceback": "",
        "secondary": False,
        "code": 1,
    } | fields


def heartbeat(step, count=None, stopped=False):
    return {"kind": "heartbeat", "step": step, "count": count or step + 1, "stopped": stopped}


def stop(grace=None, again=False):
    return {"kind": "stop", "cause": "asked to stop", "grace": grace, "again": again}


@pytest.fixture
def gang():
    """Three workers that started at second 0."""
    gang = Gang(3, now=0, join_seconds=60, stall_seconds=10, grace=60)
    for rank in range(3):
        gang.join(rank)
    assert gang.orders(0) == [{"kind": "go"}]
    return gang


def end_of(gang, now):
    (order,) = gang.orders(now)
    assert order["kind"] == "end"
    return order


def test_the_root_cause_is_found_in_every_order_of_arrival():
    """A secondary failure is never the root cause if there is a primary one."""
    failures = [
        Failure(2, "exit code 1", "ValueError: x"),
        *(Failure(i, "", "", True) for i in (0, 1, 3)),
    ]
    for order in itertools.permutations(failures):
        assert root_cause(order, finished=[]).rank == 2


def test_an_early_exit_causes_only_secondary_failures():
    echoes = [
        Failure(0, "exit code 1", secondary=True),
        Failure(3, "killed by SIGABRT", secondary=True),
    ]
    assert root_cause(echoes, finished=[2, 1]).rank == 1
    assert root_cause([*echoes, Failure(3, "exit code 7")], finished=[1]).rank == 3
    assert root_cause(echoes, finished=[]) == echoes[0]


def test_a_common_failure_is_reported_for_the_lowest_rank():
    failures = [Failure(rank, "exit code 2", "error: the loss is nan") for rank in (3, 0, 1)]
    assert root_cause(failures, finished=[]).rank == 0


@pytest.mark.parametrize(
    ("heartbeats", "stacks", "finished", "expected"),
    [
        ([Heartbeat(5, 6), Heartbeat(5, 6), Heartbeat(4, 5)], {}, [], 2),
        ([Heartbeat(5, 6), Heartbeat(5, 6, stopped=True), Heartbeat(4, 5)], {}, [], 1),
        ([Heartbeat(5, 6), Heartbeat(5, 6), Heartbeat(4, 5)], {}, [0], 0),
        ([Heartbeat(5, 6)] * 3, {0: IN_WAIT, 1: IN_SLEEP, 2: IN_WAIT}, [], 1),
        ([Heartbeat(5, 6)] * 3, {0: IN_WAIT, 1: IN_WAIT, 2: IN_WAIT}, [], 0),
    ],
    ids=["behind", "stopped", "ended", "elsewhere", "alike"],
)
def test_the_stalled_rank_is_the_one_that_others_wait_for(heartbeats, stacks, finished, expected):
    assert stalled_rank(dict(enumerate(heartbeats)), stacks, finished) == expected


def test_all_begin_together():
    gang = Gang(2, now=0, join_seconds=60, stall_seconds=10, grace=60)
    gang.join(0)
    assert gang.orders(1) == []
    gang.join(1)
    assert gang.orders(2) == [{"kind": "go"}]


def test_a_worker_that_does_not_connect_ends_all():
    gang = Gang(3, now=0, join_seconds=60, stall_seconds=10, grace=60)
    gang.join(0)
    gang.join(2)
    assert gang.orders(60) == []
    verdict = end_of(gang, 61)["verdict"]
    assert (verdict["outcome"], verdict["rank"]) == ("failed", 1)
    assert "did not connect" in verdict["cause"]


def test_one_failure_ends_all_and_its_cause_may_arrive_late(gang):
    gang.receive(0, failure(secondary=True), 5.0)
    assert gang.orders(5.0) == []
    gang.receive(1, failure(cause="killed by SIGKILL", code=137), 5.0 + LISTEN_SECONDS - 0.1)
    order = end_of(gang, 5.1 + LISTEN_SECONDS)
    assert (order["verdict"]["rank"], order["verdict"]["code"]) == (1, 137)
    assert order["grace"] == FAILURE_GRACE
    assert gang.orders(99) == []  # once


def test_the_verdict_is_immediate_once_all_have_reported(gang):
    gang.receive(0, {"kind": "finished"}, 5)
    gang.receive(1, failure(secondary=True), 5)
    gang.receive(2, failure(secondary=True), 5)
    assert end_of(gang, 5)["verdict"]["rank"] == 0


def test_a_lost_worker_is_the_root_cause(gang):
    gang.lost(2, 5)
    gang.receive(0, failure(secondary=True), 5)
    verdict = end_of(gang, 8)["verdict"]
    assert (verdict["rank"], verdict["outcome"]) == (2, "failed")
    assert "its agent was lost" in verdict["cause"]
    assert verdict["again"]


def test_all_that_finish_are_finished(gang):
    for rank in (1, 0, 2):
        assert gang.orders(5) == []
        gang.receive(rank, {"kind": "finished"}, 5)
    assert end_of(gang, 5)["verdict"]["outcome"] == "finished"


def test_a_stop_request_stops_all_with_the_jobs_grace_period(gang):
    gang.receive(1, stop(), 5)
    order = end_of(gang, 5)
    assert (order["verdict"]["outcome"], order["verdict"]["rank"]) == ("stopped", 1)
    assert order["grace"] == 60


def test_a_stop_request_may_set_the_grace_period(gang):
    gang.receive(1, stop(grace=3), 5)
    assert end_of(gang, 5)["grace"] == 3


@pytest.mark.parametrize("again", [True, False])
def test_a_stop_request_sets_whether_the_job_restarts(gang, again):
    gang.receive(1, stop(again=again), 5)
    assert end_of(gang, 5)["verdict"]["again"] is again


def test_a_failure_of_the_training_is_not_tried_again(gang):
    gang.receive(1, failure(), 5)
    assert not end_of(gang, 8)["verdict"]["again"]


def test_a_failure_before_the_stop_is_not_hidden_by_it(gang):
    gang.receive(2, failure(), 5)
    gang.receive(1, stop(), 5.5)
    assert end_of(gang, 5.5)["verdict"]["outcome"] == "failed"


def heartbeat_all(gang, now, step, **fields):
    for rank in range(3):
        gang.receive(rank, heartbeat(step, **fields), now)


def test_a_stopped_process_is_the_root_cause_of_secondary_failures(gang):
    heartbeat_all(gang, 3, step=7)
    gang.receive(2, heartbeat(7, stopped=True), 4)
    gang.receive(0, failure(secondary=True), 5)
    gang.receive(1, failure(secondary=True), 5)
    verdict = end_of(gang, 8)["verdict"]
    assert (verdict["rank"], verdict["cause"]) == (
        2,
        "stalled at step 7, stopped by a signal such as SIGSTOP",
    )


def test_a_worker_that_has_not_failed_is_not_blamed_for_being_behind(gang):
    heartbeat_all(gang, 3, step=7)
    gang.receive(1, heartbeat(9), 4)
    gang.receive(1, failure(secondary=True), 5)
    assert end_of(gang, 8)["verdict"]["rank"] == 1


def test_a_hang_in_the_second_step_is_detected(gang):
    heartbeat_all(gang, 3, step=1)
    gang.receive(0, heartbeat(2), 4)
    gang.receive(1, heartbeat(2), 4)
    assert gang.orders(15) == [{"kind": "dump"}]


def test_a_hang_is_detected_and_the_slowest_rank_reported_with_its_stack(gang):
    heartbeat_all(gang, 3, step=7)
    gang.receive(0, heartbeat(8), 4)
    gang.receive(1, heartbeat(8), 4)
    assert gang.orders(13.9) == []
    assert gang.orders(14.1) == [{"kind": "dump"}]
    for rank, stack in enumerate((IN_WAIT, IN_WAIT, IN_SLEEP)):
        assert gang.orders(15) == []
        gang.receive(rank, {"kind": "stacks", "traceback": stack}, 15)
    verdict = end_of(gang, 15)["verdict"]
    assert verdict["rank"] == 2
    assert verdict["cause"] == "stalled at step 7"
    assert verdict["traceback"] == IN_SLEEP


def test_the_wait_for_stacks_is_limited(gang):
    heartbeat_all(gang, 3, step=7)
    gang.receive(1, heartbeat(7, stopped=True), 13)
    assert gang.orders(14) == [{"kind": "dump"}]
    assert gang.orders(14 + STACKS_SECONDS) == []
    verdict = end_of(gang, 14.1 + STACKS_SECONDS)["verdict"]
    assert (verdict["rank"], "SIGSTOP" in verdict["cause"]) == (1, True)


def test_a_stopped_process_stays_the_cause_after_its_dump(gang):
    heartbeat_all(gang, 3, step=7)
    gang.receive(1, heartbeat(7, stopped=True), 4)
    assert gang.orders(14) == [{"kind": "dump"}]
    for rank in range(3):
        gang.receive(rank, heartbeat(90), 15)
        gang.receive(rank, {"kind": "stacks", "traceback": IN_WAIT}, 15)
    verdict = end_of(gang, 15)["verdict"]
    assert verdict["rank"] == 1
    assert verdict["cause"] == "stalled at step 7, stopped by a signal such as SIGSTOP"


def test_the_first_step_may_compile_for_longer(gang):
    heartbeat_all(gang, 3, step=1)
    assert gang.orders(300) == []
    heartbeat_all(gang, 300, step=2)
    assert gang.orders(311) == [{"kind": "dump"}]


def test_an_evaluation_is_not_a_hang(gang):
    heartbeat_all(gang, 3, step=7)
    for now in range(4, 100):
        heartbeat_all(gang, now, step=7, count=now + 20)
        assert gang.orders(now) == []


def test_a_program_without_heartbeats_never_stalls(gang):
    for rank in range(3):
        gang.receive(rank, {"kind": "heartbeat", "step": None, "count": 0, "stopped": False}, 3)
    assert gang.orders(1e6) == []


def test_the_root_cause_of_a_thousand_random_failures_is_found():
    """One worker fails; the others report secondary failures, or nothing, in any order."""
    rng = np.random.default_rng(0)
    for _ in range(1000):
        count = int(rng.integers(2, 9))
        culprit = int(rng.integers(count))
        gang = Gang(count, now=0, join_seconds=60, stall_seconds=10, grace=60)
        for rank in range(count):
            gang.join(rank)
        gang.orders(0)
        events = [(rng.uniform(5, 4.8 + LISTEN_SECONDS), culprit, failure("exit code 7"))]
        for rank in set(range(count)) - {culprit}:
            if rng.random() < 0.7:
                events.append((rng.uniform(5, 12), rank, failure(secondary=True)))
        verdicts = []
        for now in np.arange(5, 30, 0.1):
            for at, rank, message in events:
                if now - 0.1 < at <= now:
                    gang.receive(rank, message, now)
            verdicts += [order["verdict"] for order in gang.orders(now) if order["kind"] == "end"]
        assert [verdict["outcome"] for verdict in verdicts] == ["failed"]
        assert (verdicts[0]["rank"], verdicts[0]["cause"]) == (culprit, "exit code 7")
