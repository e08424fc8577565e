#!/usr/bin/env python3
"""The agent on a worker, whose commands the launcher calls over SSH.

python3 launch/worker/agent.py start --job=JSON [--rank=I]
python3 launch/worker/agent.py poll [--offsets=JSON]
python3 launch/worker/agent.py stop [--grace=SECONDS] [--again]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from launch.worker import devices
from launch.worker.files import read_json, renew_lease, root, write_json
from launch.worker.gang import Failure, verdict
from launch.worker.metadata import JobError, worker_rank
from launch.worker.process import exit_code
from launch.worker.supervisor import is_alive, kill_leftovers, read_heartbeat, supervise

START_SECONDS = 20.0  # for a supervisor to start
KILL_SECONDS = 15.0  # after the grace period, until a supervisor that does not stop is killed
MAX_READ_BYTES = 1 << 20  # bytes of the log in one poll


def start(job: dict[str, Any], rank: int | None) -> None:
    """Frees the accelerator, and starts a supervisor in the background.

    Raises:
      JobError: a supervisor is running already, or the new one failed.
    """
    folder = root()
    (folder / "logs").mkdir(parents=True, exist_ok=True)
    if is_alive(folder):
        raise JobError("a training is already running here; stop it with `agent.py stop`")
    renew_lease(folder)
    worker = worker_rank(job, rank)
    kill_leftovers(folder)
    killed = devices.free()
    command = [sys.executable, __file__, "supervise", f"--job={json.dumps(job)}"]
    command += [] if rank is None else [f"--rank={rank}"]
    log = folder / "logs" / "supervisor.log"
    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    until = time.monotonic() + START_SECONDS
    while read_json(folder / "supervisor.json").get("pid") != process.pid:
        if process.poll() is not None or time.monotonic() > until:
            lines = log.read_text(errors="replace").strip().splitlines()
            raise JobError((lines or ["the supervisor did not start"])[-1].replace("error: ", ""))
        time.sleep(0.02)
    print(json.dumps({"rank": worker.rank, "pid": process.pid, "killed": killed}), flush=True)


def poll(offsets: dict[str, int]) -> None:
    """Renews the lease, and prints the status as one line of JSON and then the new log lines."""
    folder = root()
    folder.mkdir(parents=True, exist_ok=True)
    renew_lease(folder)
    status = _status(folder)
    over = status["state"] in ("finished", "failed", "stopped")
    data, status["offset"] = _log_from(folder, offsets.get(str(status["rank"]), 0), over)
    sys.stdout.buffer.write(json.dumps(status).encode() + b"\n" + data)
    sys.stdout.buffer.flush()


def stop(grace: float | None, again: bool) -> None:
    """Stops the training of all workers; returns when this worker's processes have exited.

    Args:
      grace: seconds until the training is killed; None selects the job's `grace_seconds`.
      again: whether the training will be restarted, which becomes part of the verdict.
    """
    folder = root()
    if is_alive(folder):
        write_json(folder / "stop.json", {"grace": grace, "again": again})
        _signal_supervisor(folder, signal.SIGTERM)
        if grace is None:
            grace = float(read_json(folder / "job.json").get("grace_seconds", 60))
        until = time.monotonic() + grace + KILL_SECONDS
        while is_alive(folder) and time.monotonic() < until:
            time.sleep(0.1)
        if is_alive(folder):
            _signal_supervisor(folder, signal.SIGKILL)
    kill_leftovers(folder)
    print(json.dumps({"state": _status(folder)["state"]}), flush=True)


def _signal_supervisor(folder: Path, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(read_json(folder / "supervisor.json")["pid"], number)


def _status(folder: Path) -> dict[str, Any]:
    alive = is_alive(folder)  # first: the files of a supervisor that has exited are complete
    facts, timer = read_json(folder / "supervisor.json"), read_json(folder / "deadman.json")
    ended = None
    if facts and not alive:
        ended = read_json(folder / "result.json") or _missing_verdict(folder, facts["rank"])
    return {
        "rank": facts.get("rank"),
        "state": ended["outcome"] if ended else facts.get("state", "idle"),
        "attempt": facts.get("attempt"),
        "step": read_heartbeat(folder / "heartbeat")[0],
        "first_step_at": facts.get("first_step_at"),
        "verdict": ended,
        "born": timer.get("born"),
        "deadline": timer.get("deadline"),
    }


def _missing_verdict(folder: Path, rank: int) -> dict[str, Any]:
    """Returns the verdict on a supervisor that exited without one."""
    log = folder / "logs" / "supervisor.log"
    text = log.read_text(errors="replace")[-2000:] if log.exists() else ""
    cause = "its agent was lost: killed, or its machine was rebooted"
    return dict(verdict("failed", Failure(rank, cause, text, again=True)), time=time.time())


def _log_from(folder: Path, offset: int, over: bool) -> tuple[bytes, int]:
    """Returns whole new lines and the next offset; an offset beyond the end restarts at 0."""
    try:
        with (folder / "logs" / "training.log").open("rb") as file:
            if offset > file.seek(0, os.SEEK_END):
                offset = 0
            file.seek(offset)
            data = file.read(MAX_READ_BYTES)
    except FileNotFoundError:
        return b"", 0
    whole = data.rfind(b"\n") + 1
    if (not over and len(data) < MAX_READ_BYTES) or whole:
        data = data[:whole]
    return data, offset + len(data)


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    subparsers = parser.add_subparsers(dest="command", required=True)
    for name in ("start", "supervise"):
        command = subparsers.add_parser(name)
        command.add_argument("--job", type=json.loads, required=True, help="the job, as JSON")
        command.add_argument("--rank", type=int, help="worker index, if the job lists hosts")
    command = subparsers.add_parser("poll")
    command.add_argument(
        "--offsets", type=json.loads, default={}, help="log offsets in bytes, by rank"
    )
    command = subparsers.add_parser("stop")
    command.add_argument("--grace", type=float, help="seconds until the training is killed")
    command.add_argument("--again", action="store_true", help="the training will be restarted")
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> int:
    """Runs a command and returns the exit code."""
    options = _parse(arguments)
    try:
        if options.command == "start":
            start(options.job, options.rank)
        elif options.command == "supervise":
            result = supervise(options.job, worker_rank(options.job, options.rank))
            return exit_code(result["code"])
        elif options.command == "poll":
            poll(options.offsets)
        else:
            stop(options.grace, options.again)
    except JobError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
