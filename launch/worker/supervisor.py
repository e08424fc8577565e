"""Runs and monitors the training process of one worker of a gang."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import os
import signal
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any

from launch.worker import logs
from launch.worker.files import read_json, renew_lease, root, write_json
from launch.worker.gang import (
    FIRST_STEP_COUNT,
    TERMINATED,
    Failure,
    Gang,
    Message,
    stopped,
    verdict,
)
from launch.worker.metadata import JobError, WorkerRank
from launch.worker.process import Child, describe_exit, exit_code, kill_by_environment
from launch.worker.wire import HEARTBEAT_SECONDS, Hub, Link

GANG_PORT = int(os.environ.get("POLYMATH_GANG_PORT", "8479"))
COORDINATOR_PORT = int(os.environ.get("POLYMATH_COORDINATOR_PORT", "8476"))
JOIN_SECONDS = 1800.0  # from the first worker's start to the last's, whose setup may be slow
COPY_SECONDS = 30.0  # between copies of the log into the workdir
STACKS_SECONDS = 1.0  # for Python to dump its stacks
TICK_SECONDS = 0.1
HEARTBEAT_VARIABLE = "POLYMATH_HEARTBEAT"  # set in every training process


class Supervisor:
    """One worker of a job.

    Its folder contains `job.json`, `supervisor.json` (status), `result.json` (verdict),
    `heartbeat` and `logs/training.log`.
    """

    def __init__(self, job: dict[str, Any], worker: WorkerRank):
        self._job, self._worker, self._root = job, worker, root()
        self._log = self._root / "logs" / "training.log"
        self._child: Child | None = None
        self._facts: dict[str, Any] = {"pid": os.getpid(), "rank": worker.rank, "state": "starting"}
        self._facts.update(attempt=job.get("attempt", 1), child=None, first_step_at=None)
        self._messages: list[Message] = []
        self._reported = False  # the exit of the training process
        self._stop_requested = self._terminated = False  # stop requests and SIGTERM to the training
        self._copying = threading.Lock()
        self._dumping, self._dump_at = False, 0.0
        self._last_heartbeat = 0.0
        # Sizes of the log at the last two heartbeats: the cause of an exit comes after them.
        self._heartbeats, self._log_before, self._log_now = 0, 0, 0

    def run(self) -> dict[str, Any]:
        """Runs the training, and returns the gang's verdict once this worker's processes exited."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._request_stop)
        self._save_facts()
        link = self._join()
        threading.Thread(target=self._copy_log_regularly, daemon=True).start()
        ended = None
        while ended is None:
            ended = self._tick(link)
        self._terminate()
        link.close()
        self._end_child(ended["grace"])
        result = dict(ended["verdict"], time=time.time())
        write_json(self._root / "result.json", result)
        if not self._is_refused(result):
            self._copy(self._log, f"worker-{self._worker.rank}.log")
            # Worker 0 writes the result for all, unless it is the lost one.
            if self._worker.rank == 0 or (result["rank"] == 0 and result["again"]):
                self._copy(self._root / "result.json", "result.json")
        return result

    def _join(self) -> Hub | Link:
        rank, workers, coordinator = self._worker
        job = f"{self._job.get('name')} {self._job.get('attempt', 1)}"
        if rank:
            return Link(rank, job, (coordinator, GANG_PORT), JOIN_SECONDS)
        stall = float(self._job.get("stall_seconds", 600))
        gang = Gang(workers, time.monotonic(), JOIN_SECONDS, stall, self._grace)
        try:
            return Hub(gang, job, GANG_PORT if workers > 1 else None)
        except OSError as error:
            raise JobError(f"port {GANG_PORT} of worker 0: {error.strerror}; free it") from None

    def _tick(self, link: Hub | Link) -> Message | None:
        """Runs one iteration; returns the order to end, if there is one."""
        if self._stop_requested:
            # Without waiting for an order: the machine of the hub may be lost.
            if self._child is None:
                return self._stopped()
            self._terminate()
            self._stop_requested = False
            self._messages.append(self._request())
        if time.monotonic() > self._last_heartbeat + HEARTBEAT_SECONDS:
            self._last_heartbeat = time.monotonic()
            renew_lease(self._root)
            training = None if self._reported else self._child
            self._messages.append(
                self._heartbeat_message(training) if training else {"kind": "alive"}
            )
        if self._child is not None:
            self._watch(self._child)
        messages, self._messages = self._messages, []
        for order in link.exchange(messages, TICK_SECONDS):
            if order["kind"] == "go":
                self._start()
            elif order["kind"] == "dump" and self._child is not None:
                self._child.dump()
                self._dumping, self._dump_at = True, time.monotonic()
            elif order["kind"] == "end":
                return order
        return None

    def _start(self) -> None:
        arguments = [self._job.get("python", str(self._root / "venv/bin/python"))]
        arguments += self._job["arguments"]
        directory = Path(self._job.get("directory", str(self._root / "code")))
        with contextlib.suppress(FileNotFoundError):
            self._heartbeat.unlink()
        try:
            with self._log.open("ab") as output:
                self._child = Child(arguments, directory, self._environment(), output)
        except OSError as error:
            failure = Failure(self._worker.rank, f"cannot start {arguments[0]}: {error.strerror}")
            self._messages.append(dict(dataclasses.asdict(failure), kind="failure"))
            return
        self._facts.update(state="running", child=self._child.pid)
        self._save_facts()

    def _environment(self) -> dict[str, str]:
        rank, workers, coordinator = self._worker
        environment = dict(os.environ, PYTHONUNBUFFERED="1", PYTHONFAULTHANDLER="1")
        environment[HEARTBEAT_VARIABLE] = str(self._heartbeat)
        if workers > 1:
            environment["JAX_COORDINATOR_ADDRESS"] = f"{coordinator}:{COORDINATOR_PORT}"
            environment.update(JAX_NUM_PROCESSES=str(workers), JAX_PROCESS_ID=str(rank))
        if (self._root / "data").is_dir():  # where `begin.sh` copies data sets to
            environment["TFDS_DATA_DIR"] = str(self._root / "data")
        environment.update(self._job.get("environment") or {})
        return environment

    def _watch(self, child: Child) -> None:
        """Checks the training process, and reports its stacks or its exit."""
        code = child.poll()
        if code is None:
            if self._dump_at and time.monotonic() > self._dump_at + STACKS_SECONDS:
                self._dump_at = 0.0
                text = logs.read_from(self._log, self._log_before)
                self._messages.append({"kind": "stacks", "traceback": logs.first_cause(text)[0]})
        elif not self._reported:
            self._reported = True
            self._heartbeat_message(child)  # its last step
            self._messages.append(self._report(code))

    def _heartbeat_message(self, child: Child) -> Message:
        step, count = read_heartbeat(self._heartbeat)
        if count > self._heartbeats and not self._dumping:  # a dump resumes a stopped process
            self._log_before, self._log_now = self._log_now, self._log.stat().st_size
            self._heartbeats = count
        if count >= FIRST_STEP_COUNT and self._facts["first_step_at"] is None:
            self._facts["first_step_at"] = self._heartbeat.stat().st_mtime
            self._save_facts()
        return {"kind": "heartbeat", "step": step, "count": count, "stopped": child.is_stopped()}

    def _report(self, code: int) -> Message:
        if code == 0:
            return {"kind": "finished"}
        if code in (TERMINATED, -signal.SIGTERM):
            return self._request()
        text = logs.read_from(self._log, self._log_before)
        traceback, secondary = logs.first_cause(text)
        failure = Failure(
            self._worker.rank, describe_exit(code), traceback, secondary, exit_code(code)
        )
        return dict(dataclasses.asdict(failure), kind="failure")

    def _request(self) -> Message:
        """Returns a stop request, of the stop command, the timer or a shutdown of the machine."""
        reason = read_json(self._root / "deadman.json").get("reason")
        command = read_json(self._root / "stop.json")
        cause = f"the dead man's timer: {reason}" if reason else "stopped by SIGTERM"
        again = bool(command.get("again", not reason))
        return {"kind": "stop", "cause": cause, "grace": command.get("grace"), "again": again}

    def _stopped(self) -> Message:
        ended = verdict("stopped", stopped(self._worker.rank, self._request()))
        return {"kind": "end", "verdict": ended, "grace": self._grace}

    def _end_child(self, grace: float) -> None:
        """Waits for the grace period, then kills all processes of the session."""
        if self._child is None:
            return
        until = time.monotonic() + grace
        while self._child.poll() is None and time.monotonic() < until:
            renew_lease(self._root)
            time.sleep(TICK_SECONDS)
        self._child.kill_session()

    def _terminate(self) -> None:
        """Sends SIGTERM, only once: a second one would interrupt the checkpoint."""
        if self._child is not None and not self._terminated:
            self._terminated = True
            self._child.signal(signal.SIGTERM)

    def _copy_log_regularly(self) -> None:
        size = 0
        while True:
            time.sleep(COPY_SECONDS)
            now = self._log.stat().st_size if self._log.exists() else 0
            if now != size:
                size = now
                self._copy(self._log, f"worker-{self._worker.rank}.log")

    def _is_refused(self, result: dict[str, Any]) -> bool:
        """Returns whether a user error occurred before the first step, which creates no workdir.

        A workdir in a bucket gets the result anyway, since the VM will be deleted.
        """
        in_bucket = str(self._job.get("workdir")).startswith("gs://")
        return result["code"] == 2 and self._facts["first_step_at"] is None and not in_bucket

    def _copy(self, file: Path, name: str) -> None:
        workdir = self._job.get("workdir")
        if workdir and file.exists():
            folder = f"{workdir.rstrip('/')}/logs/attempt-{self._facts['attempt']}"
            with self._copying:  # an older copy must not replace a newer one
                logs.copy(file, f"{folder}/{name}", COPY_SECONDS)

    @property
    def _heartbeat(self) -> Path:
        return self._root / "heartbeat"

    @property
    def _grace(self) -> float:
        return float(self._job.get("grace_seconds", 60))

    def _request_stop(self, number: int, frame: FrameType | None) -> None:
        self._stop_requested = True

    def _save_facts(self) -> None:
        write_json(self._root / "supervisor.json", self._facts)


def read_heartbeat(path: Path) -> tuple[int | None, int]:
    """Returns the step that began last and the number of heartbeats."""
    try:
        step, count = path.read_text().split()
        return int(step) or None, int(count)
    except (OSError, ValueError):
        return None, 0


def lock(folder: Path, exclusive: bool) -> int | None:
    """Acquires the lock that a running supervisor holds exclusively; None if it is held.

    It locks the folder itself, because another user might own a lock file.
    """
    descriptor = os.open(str(folder), os.O_RDONLY)
    kind = fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def is_alive(folder: Path) -> bool:
    """Returns whether a supervisor is running in a folder."""
    if not folder.exists():
        return False
    held = lock(folder, exclusive=False)
    if held is not None:
        os.close(held)
    return held is None


def supervise(job: dict[str, Any], worker: WorkerRank) -> dict[str, Any]:
    """Runs a worker of a job in the foreground, and returns the gang's verdict.

    Raises:
      JobError: a supervisor is already running here.
    """
    folder = root()
    (folder / "logs").mkdir(parents=True, exist_ok=True)
    until = time.monotonic() + 2  # `is_alive` holds the lock for a moment
    held = lock(folder, exclusive=True)
    while held is None and time.monotonic() < until:
        time.sleep(0.05)
        held = lock(folder, exclusive=True)
    if held is None:
        raise JobError("a training is already running here; stop it with `agent.py stop`")
    for name in ("result.json", "stop.json", "heartbeat"):
        with contextlib.suppress(FileNotFoundError):
            (folder / name).unlink()
    logs.rotate(folder / "logs" / "training.log")
    write_json(folder / "job.json", job)
    return Supervisor(job, worker).run()


def kill_leftovers(folder: Path) -> None:
    """Kills training processes whose supervisor has exited."""
    kill_by_environment(f"{HEARTBEAT_VARIABLE}={folder / 'heartbeat'}")
