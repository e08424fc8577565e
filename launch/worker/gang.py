"""Gang scheduling of a job's workers: they start together, and the first failure stops all.

This module uses no socket, process or clock, so that tests can simulate them; see `wire.py` for the
network protocol.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

LISTEN_SECONDS = 2.0  # after the first failure, whose cause may be reported later
STACKS_SECONDS = 2.0  # for all processes to dump their stacks
FAILURE_GRACE = 5.0  # seconds; after a failure the others cannot agree on a step to save
FIRST_STEP_SECONDS = 3600.0  # a hang before the first step looks like a long compilation
FIRST_STEP_COUNT = 3  # heartbeats at the start and at two steps: the first step is compiled

TERMINATED = 143  # exit code of a run after SIGTERM

LEFT = "exited with code 0 while others were training"

Message = dict  # a JSON object


@dataclasses.dataclass(frozen=True)
class Failure:
    """The failure of a worker's training process, or the loss of the worker."""

    rank: int
    cause: str  # such as "exit code 1"
    traceback: str = ""
    secondary: bool = False  # caused by the failure of another worker
    code: int = 1  # exit code as in a shell
    again: bool = False  # the machine failed rather than the training: retry


@dataclasses.dataclass(frozen=True)
class Heartbeat:
    """The progress of a training process."""

    step: int | None = None
    count: int = 0  # one per training step and per evaluation batch
    stopped: bool = False  # by SIGSTOP or a similar signal


def root_cause(failures: Sequence[Failure], finished: Sequence[int]) -> Failure:
    """Returns the failure that caused the others.

    Args:
      failures: in order of arrival; at least one.
      finished: the workers that exited with code 0 before the others failed.
    """
    causes = [failure for failure in failures if not failure.secondary]
    if causes:
        # Of identical failures on all workers, such as a NaN loss, the lowest rank is reported.
        first = causes[0].cause, causes[0].traceback
        alike = [failure for failure in causes if (failure.cause, failure.traceback) == first]
        return min(alike, key=lambda failure: failure.rank)
    if finished:
        return Failure(min(finished), LEFT)
    return failures[0]


def stalled_rank(
    heartbeats: Mapping[int, Heartbeat], stacks: Mapping[int, str], finished: Sequence[int]
) -> int:
    """Returns the worker for which the others wait, if none progresses.

    A worker that exited; else one stopped by a signal; else the one with the fewest heartbeats;
    else, if all have as many, the only one whose stack differs from the others.
    """
    if finished:
        return min(finished)
    held = [rank for rank, heartbeat in heartbeats.items() if heartbeat.stopped]
    if held:
        return min(held)
    least = min(heartbeat.count for heartbeat in heartbeats.values())
    behind = sorted(rank for rank, heartbeat in heartbeats.items() if heartbeat.count == least)
    if len(behind) == len(heartbeats):
        frames = {rank: _innermost_frame(stacks.get(rank, "")) for rank in behind}
        common, times = Counter(frames.values()).most_common(1)[0]
        unlike = [rank for rank in behind if frames[rank] != common]
        if len(unlike) == 1 and times > 1:
            return unlike[0]
    return behind[0]


class Gang:
    """The state of all workers and the orders to them, on worker 0. Times are in seconds.

    Messages from workers have a `kind`: `heartbeat` (step, count, stopped), `failure` (a
    `Failure`), `finished`, `stacks` (traceback), `stop` (cause, grace, again) and, without a
    training process, `alive`. Orders to all workers are `go`, `dump` (dump stacks) and `end`
    (verdict, grace).
    """

    def __init__(
        self,
        count: int,
        now: float,
        join_seconds: float,
        stall_seconds: float,
        grace: float,
    ):
        self._count, self._grace, self._stall_seconds = count, grace, stall_seconds
        self._join_by = now + join_seconds
        self._joined: set[int] = set()
        self._started = self._over = False
        self._heartbeats: dict[int, Heartbeat] = {}
        self._last_progress = now
        self._failures: dict[int, Failure] = {}
        self._finished: set[int] = set()
        self._listen_until = 0.0
        self._stacks: dict[int, str] = {}
        self._stacks_by = 0.0
        self._stop: Message | None = None

    def join(self, rank: int) -> None:
        """Registers a worker."""
        self._joined.add(rank)

    def receive(self, rank: int, message: Message, now: float) -> None:
        """Handles a worker's message."""
        kind = message["kind"]
        if kind == "heartbeat" and not self._stacks_by:  # the dump order resumes a stopped process
            heartbeat = Heartbeat(message["step"], message["count"], message["stopped"])
            if heartbeat.count > self._heartbeats.get(rank, Heartbeat()).count:
                self._last_progress = now
            self._heartbeats[rank] = heartbeat
        elif kind == "finished":
            self._finished.add(rank)
        elif kind == "stacks":
            self._stacks[rank] = message["traceback"]
        elif kind == "stop" and self._stop is None:
            self._stop = dict(message, rank=rank)
        elif kind == "failure" and not self._stacks_by:  # and ends one without faulthandler
            fields = {k: v for k, v in message.items() if k != "kind"}
            self._fail(Failure(**dict(fields, rank=rank)), now)

    def lost(self, rank: int, now: float) -> None:
        """Handles a worker whose connection was lost or timed out."""
        if not self._started:
            self._joined.discard(rank)
        elif rank not in self._failures:
            cause = "its agent was lost: killed, or its machine or network failed"
            self._fail(Failure(rank, cause, again=True), now)

    def orders(self, now: float) -> list[Message]:
        """Returns the new orders to all workers."""
        if self._over:
            return []
        ended = self._verdict(now)
        if ended is not None:
            self._over = True
            grace = self._grace if ended["outcome"] == "stopped" else FAILURE_GRACE
            if self._stop and self._stop.get("grace") is not None:
                grace = self._stop["grace"]
            return [{"kind": "end", "verdict": ended, "grace": grace}]
        if not self._started and len(self._joined) == self._count:
            self._started, self._last_progress = True, now
            return [{"kind": "go"}]
        if self._is_stalled(now):
            self._stacks_by = now + STACKS_SECONDS
            return [{"kind": "dump"}]
        return []

    def _fail(self, failure: Failure, now: float) -> None:
        if not self._failures:
            self._listen_until = now + LISTEN_SECONDS
        self._failures.setdefault(failure.rank, failure)

    def _is_stalled(self, now: float) -> bool:
        if not self._started or self._failures or self._stacks_by:
            return False
        counts = [heartbeat.count for heartbeat in self._heartbeats.values()]
        if not any(counts):  # no heartbeats, or not yet
            return False
        begun = max(counts) >= FIRST_STEP_COUNT  # then the first step is compiled
        limit = self._stall_seconds if begun else max(FIRST_STEP_SECONDS, self._stall_seconds)
        return now > self._last_progress + limit

    def _verdict(self, now: float) -> dict[str, Any] | None:
        heard_all = len(self._failures) + len(self._finished - set(self._failures)) == self._count
        if self._failures and (heard_all or now > self._listen_until or self._stop):
            failure = root_cause(list(self._failures.values()), sorted(self._finished))
            failure = (self._stopped_process() if failure.secondary else None) or failure
            if not (self._stop and failure.secondary):
                return verdict("failed", failure)
        if self._stop:
            return verdict("stopped", stopped(self._stop["rank"], self._stop))
        if len(self._finished) == self._count:
            return verdict("finished", None)
        if self._stacks_by and (now > self._stacks_by or len(self._stacks) == self._count):
            return verdict("failed", self._stall())
        if not self._started and now > self._join_by:
            missing = sorted(set(range(self._count)) - self._joined)
            return verdict("failed", Failure(missing[0], "its agent did not connect", again=True))
        return None

    def _stall(self) -> Failure:
        rank = (
            stalled_rank(self._heartbeats, self._stacks, sorted(self._finished))
            if self._heartbeats
            else 0
        )
        cause = (
            LEFT
            if rank in self._finished
            else _describe_stall(self._heartbeats.get(rank, Heartbeat()))
        )
        return Failure(rank, cause, self._stacks.get(rank, ""))

    def _stopped_process(self) -> Failure | None:
        """Returns the failure of a stopped worker, whose silence makes the others fail."""
        for rank, heartbeat in self._heartbeats.items():
            if heartbeat.stopped and rank not in self._failures:
                return Failure(rank, _describe_stall(heartbeat))
        return None


def stopped(rank: int, request: Message) -> Failure:
    """Returns the end of a job by a stop request to one worker."""
    return Failure(rank, request["cause"], code=TERMINATED, again=request["again"])


def verdict(outcome: str, failure: Failure | None) -> dict[str, Any]:
    """Returns the result of the job, which every worker writes to `result.json` with a time."""
    known = dataclasses.asdict(failure or Failure(0, outcome, code=0))
    del known["secondary"]
    return dict(known, outcome=outcome, rank=failure.rank if failure else None)


def _describe_stall(heartbeat: Heartbeat) -> str:
    """Describes a stalled process."""
    cause = (
        f"stalled at step {heartbeat.step}" if heartbeat.step else "stalled before its first step"
    )
    return cause + ", stopped by a signal such as SIGSTOP" * heartbeat.stopped


def _innermost_frame(stack: str) -> str:
    """Returns the innermost frame of the main thread, which is dumped last."""
    lines = stack.rpartition("(most recent call first):")[2].splitlines()
    return next((line for line in lines if line.startswith("  File")), "")
