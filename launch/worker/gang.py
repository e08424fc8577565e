"""All workers of a job as one: they begin together, and the first that fails ends all.

Nothing here touches a socket, a process or a clock: `launch/worker/wire.py` carries the messages,
and the simulation and the tests bring their own.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

LISTEN_SECONDS = 2.0  # after the first failure: the cause may be heard after its echo
STACKS_SECONDS = 2.0  # for all to dump their stacks
FAILURE_GRACE = 5.0  # seconds for those that fail with others; they cannot agree on a step to save
FIRST_STEP_SECONDS = 3600.0  # a hang before the first step cannot be told from a long compilation
FIRST_STEP_COUNT = (
    3  # beats: at its start, its first step, and its second, when the first has been compiled
)

TERMINATED = 143  # what a run that SIGTERM interrupted exits with

LEFT = "exited with code 0 while others still trained"

Message = dict  # a JSON object


@dataclasses.dataclass(frozen=True)
class Failure:
    """How the training process of one worker ended, or that the worker is lost."""

    rank: int
    cause: str  # such as "exit code 1"
    traceback: str = ""
    secondary: bool = False  # it speaks only of another that has gone
    code: int = 1  # exit code as a shell tells it
    again: bool = False  # not the training's fault, but of its machine: worth another start


@dataclasses.dataclass(frozen=True)
class Heartbeat:
    """How far a training process is."""

    step: int | None = None
    count: int = 0  # grows with every step and every batch of an evaluation
    stopped: bool = False  # by a signal such as SIGSTOP


def root_cause(failures: Sequence[Failure], finished: Sequence[int]) -> Failure:
    """The failure that brought the others about.

    Args:
      failures: in the order in which they were heard; at least one.
      finished: workers that exited with code 0, while those that failed were still training.
    """
    causes = [failure for failure in failures if not failure.secondary]
    if causes:
        # What befalls all at once, such as a loss that is no number, is told of the least rank.
        first = causes[0].cause, causes[0].traceback
        alike = [failure for failure in causes if (failure.cause, failure.traceback) == first]
        return min(alike, key=lambda failure: failure.rank)
    if finished:
        return Failure(min(finished), LEFT)
    return failures[0]


def stalled_rank(
    heartbeats: Mapping[int, Heartbeat], stacks: Mapping[int, str], finished: Sequence[int]
) -> int:
    """The worker that the others wait for, where none goes on.

    One that has ended; else one that a signal holds; else the one that is furthest behind; else,
    where all are equally far, the one whose stack is unlike that of all others.
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
    """What worker 0 knows of all, and what it orders. Times are seconds of any one clock.

    Messages from workers have a `kind`: `beat` (step, count, stopped), `failure` (a `Failure`),
    `finished`, `stacks` (traceback), `stop` (cause, grace, again) and, where nothing trains,
    `alive`. Orders, which go to all, are `go`, `dump` (show your stacks) and `end` (verdict,
    grace).
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
        """A worker is there."""
        self._joined.add(rank)

    def receive(self, rank: int, message: Message, now: float) -> None:
        """A worker's message."""
        kind = message["kind"]
        if kind == "heartbeat" and not self._stacks_by:  # a held process that is to dump goes on
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
        elif kind == "failure" and not self._stacks_by:  # and one that cannot dump ends
            fields = {k: v for k, v in message.items() if k != "kind"}
            self._fail(Failure(**dict(fields, rank=rank)), now)

    def lost(self, rank: int, now: float) -> None:
        """A worker's connection has gone, or it has long been silent."""
        if not self._started:
            self._joined.discard(rank)
        elif rank not in self._failures:
            cause = "its agent has gone: killed, or its machine or network lost"
            self._fail(Failure(rank, cause, again=True), now)

    def orders(self, now: float) -> list[Message]:
        """What all workers are to do now."""
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
        if not any(counts):  # a program that does not beat, or not yet
            return False
        begun = max(counts) >= FIRST_STEP_COUNT  # then the others compile no longer for long
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
            return verdict("failed", Failure(missing[0], "its agent did not come", again=True))
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
        """The worker that a signal holds, so that others fail for want of its answer."""
        for rank, heartbeat in self._heartbeats.items():
            if heartbeat.stopped and rank not in self._failures:
                return Failure(rank, _describe_stall(heartbeat))
        return None


def stopped(rank: int, request: Message) -> Failure:
    """The end of a job that a worker was asked to stop."""
    return Failure(rank, request["cause"], code=TERMINATED, again=request["again"])


def verdict(outcome: str, failure: Failure | None) -> dict[str, Any]:
    """How the job ended, as every worker writes it into `result.json`, where the time is added."""
    known = dataclasses.asdict(failure or Failure(0, outcome, code=0))
    del known["secondary"]
    return dict(known, outcome=outcome, rank=failure.rank if failure else None)


def _describe_stall(heartbeat: Heartbeat) -> str:
    """Where a process stands that does not go on."""
    cause = (
        f"stalled at step {heartbeat.step}" if heartbeat.step else "stalled before its first step"
    )
    return cause + ", held by a signal such as SIGSTOP" * heartbeat.stopped


def _innermost_frame(stack: str) -> str:
    """Where the main thread, which is dumped last, stands: its innermost line."""
    lines = stack.rpartition("(most recent call first):")[2].splitlines()
    return next((line for line in lines if line.startswith("  File")), "")
