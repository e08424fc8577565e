#!/usr/bin/env python3
"""Trains with several processes on one machine, each under an agent as on a slice.

python launch/local_slice.py --processes=4 --devices=2 -- \\
    --config=experiments/image_classification/digits_cnn.py --workdir=runs/slice

The processes use emulated CPU devices and communicate through gloo. Each log line is prefixed
with the process index. The first failure stops all processes.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import socket
import sys
import tempfile
import time
from pathlib import Path
from types import FrameType
from typing import IO, Any, NoReturn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from launch.worker.files import read_json
from launch.worker.logs import NOISE
from launch.worker.process import Child

ROOT = Path(__file__).resolve().parents[1]
AGENT = ROOT / "launch" / "worker" / "agent.py"
TICK_SECONDS = 0.1
HOLD_SECONDS = (
    15.0  # for all processes to exit after a user error, so that only its line is printed
)


class Slice:
    """Several agents that train together, each in its own folder.

    Args:
      folder: contains the agents' folders.
      processes: the number of processes.
      arguments: of Python, in each process.
      environment: added to this process's environment.
      job: further keys of the agents' job, such as `stall_seconds`.
    """

    def __init__(
        self,
        folder: Path,
        processes: int,
        arguments: list[str],
        environment: dict[str, str],
        **job: Any,
    ):
        self._folders = [folder / str(rank) for rank in range(processes)]
        self._offsets = [0] * processes
        job = {
            "name": "local",
            "attempt": 1,
            "arguments": arguments,
            "environment": environment,
            "hosts": ["localhost"] * processes,
            "python": sys.executable,
            "directory": str(Path.cwd()),
            **job,
        }
        ports = free_ports(2)
        shared = {"POLYMATH_GANG_PORT": str(ports[0]), "POLYMATH_COORDINATOR_PORT": str(ports[1])}
        self.agents = [self._start_agent(rank, job, shared) for rank in range(processes)]

    def is_running(self) -> bool:
        """Returns whether an agent is running."""
        return any(agent.poll() is None for agent in self.agents)

    def new_lines(self) -> list[tuple[int, str]]:
        """Returns the new log lines, each with its process index."""
        over = not self.is_running()
        lines = []
        for rank, folder in enumerate(self._folders):
            try:
                with (folder / "logs" / "training.log").open("rb") as file:
                    file.seek(self._offsets[rank])
                    data = file.read()
            except FileNotFoundError:
                continue
            whole = data if over else data[: data.rfind(b"\n") + 1]
            self._offsets[rank] += len(whole)
            lines += [(rank, line) for line in whole.decode(errors="replace").splitlines()]
        return lines

    def stop(self, number: int = signal.SIGTERM) -> None:
        """Sends a signal to all agents: SIGTERM saves a checkpoint first, SIGKILL does not."""
        for agent in self.agents:
            agent.signal(number)

    def verdict(self) -> dict[str, Any]:
        """Returns the verdict of the agents that are still alive at the end."""
        results = [read_json(folder / "result.json") for folder in self._folders]
        lost = {"outcome": "failed", "rank": 0, "cause": "all agents were killed", "code": 1}
        return next((result for result in results if result), dict(lost, traceback=""))

    def _start_agent(self, rank: int, job: dict[str, Any], shared: dict[str, str]) -> Child:
        folder = self._folders[rank]
        folder.mkdir(parents=True)
        command = [sys.executable, str(AGENT), "supervise", f"--job={json.dumps(job)}"]
        environment = dict(os.environ, POLYMATH_ROOT=str(folder), **shared)
        with (folder / "supervisor.log").open("wb") as output:
            # If this process is killed, an agent still stops its training gracefully.
            return Child([*command, f"--rank={rank}"], ROOT, environment, output, signal.SIGTERM)


class Screen:
    """Prints the log lines of the processes.

    After a line that begins with `error: ` it holds lines back for a while, in order to omit the
    other processes' failures that a user error causes.
    """

    def __init__(self, output: IO[str]):
        self._output = output
        self._held: list[tuple[int, str]] = []
        self._until: float | None = None

    def show(self, lines: list[tuple[int, str]]) -> None:
        """Prints the lines of the previous call, and holds back the new ones."""
        if self._until is None and any(line.startswith("error: ") for _, line in lines):
            self._until = time.monotonic() + HOLD_SECONDS
        elif self._until is None or time.monotonic() > self._until:
            self.flush()
        self._held += [(rank, line) for rank, line in lines if not NOISE.match(line)]

    def flush(self) -> None:
        """Prints the lines held back."""
        for rank, line in self._held:
            print(f"[{rank}] {line}", file=self._output)
        self._output.flush()
        self._held, self._until = [], None

    def flush_before_errors(self) -> None:
        """Prints the lines of each process before its own error."""
        errors: dict[int, int] = {}
        for i, (rank, line) in enumerate(self._held):
            if line.startswith("error: "):
                errors.setdefault(rank, i)
        self._held = [
            (rank, line) for i, (rank, line) in enumerate(self._held) if i < errors.get(rank, 0)
        ]
        self.flush()


def follow(training: Slice, output: IO[str]) -> dict[str, Any]:
    """Prints the logs of a slice until it has ended, and returns the verdict."""
    screen = Screen(output)
    while training.is_running():
        screen.show(training.new_lines())
        time.sleep(TICK_SECONDS)
    screen.show(training.new_lines())
    verdict = training.verdict()
    screen.flush_before_errors() if is_user_error(verdict) else screen.flush()
    return verdict


def is_user_error(verdict: dict[str, Any]) -> bool:
    """Returns whether a user error ended the training."""
    return verdict["code"] == 2 and str(verdict["traceback"]).startswith("error: ")


def summary(verdict: dict[str, Any]) -> str:
    """Formats the verdict for the end of the output."""
    if verdict["outcome"] == "finished":
        return "finished"
    if is_user_error(verdict):
        return str(verdict["traceback"])
    text = f"{verdict['outcome']}: process {verdict['rank']}: {verdict['cause']}"
    return f"{text}\n{verdict['traceback']}".rstrip()


def cpu_environment(devices: int) -> dict[str, str]:
    """Returns the environment in which JAX emulates a number of CPU devices."""
    forced = r"--xla_force_host_platform_device_count=\S+"  # would override JAX_NUM_CPU_DEVICES
    return {
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": str(devices),
        "JAX_CPU_COLLECTIVES_IMPLEMENTATION": "gloo",
        "XLA_FLAGS": re.sub(forced, "", os.environ.get("XLA_FLAGS", "")),
    }


def free_ports(count: int) -> list[int]:
    """Returns unused ports."""
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(("", 0))
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


def next_attempt(workdir: str | None) -> int:
    """Returns the number after the last attempt with logs in the workdir."""
    found = Path(workdir or "").glob("logs/attempt-*") if workdir else ()
    return 1 + max((int(path.name.rpartition("-")[2]) for path in found), default=0)


def main(arguments: list[str]) -> int:
    """Trains; returns the exit code of the process that failed, or 0."""
    options = _parse(arguments)
    workdir = _flag(options.training, "workdir")
    with tempfile.TemporaryDirectory(prefix="polymath-") as folder:
        training = Slice(
            Path(folder),
            options.processes,
            ["-m", "research.train", *options.training],
            dict(cpu_environment(options.devices), PYTHONPATH=_python_path()),
            workdir=workdir,
            attempt=next_attempt(workdir),
            stall_seconds=options.stall_seconds,
        )
        _stop_at_signals(training)
        verdict = follow(training, sys.stdout)
    print(summary(verdict), file=sys.stderr)
    return int(verdict["code"])


def _stop_at_signals(training: Slice) -> None:
    """Installs handlers: the first Ctrl-C or SIGTERM saves a checkpoint, the second kills."""

    def stop(number: int, frame: FrameType | None) -> None:
        training.stop(signal.SIGKILL if asked else signal.SIGTERM)
        asked.append(number)

    asked: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)


def _python_path() -> str:
    """Returns PYTHONPATH with the root of this repository."""
    return os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))


def _flag(arguments: list[str], name: str) -> str | None:
    """Returns the value of a flag as absl parses it: `--name=value` or `--name value`."""
    for i, argument in enumerate(arguments):
        key, equals, value = argument.lstrip("-").partition("=")
        if argument.startswith("-") and key == name:
            return value if equals else next(iter(arguments[i + 1 :]), None)
    return None


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        print(f"error: {message}; see --help", file=sys.stderr)
        sys.exit(2)


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = _Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=_positive, default=2, help="number of processes")
    parser.add_argument("--devices", type=_positive, default=1, help="emulated devices per process")
    parser.add_argument(
        "--stall-seconds", type=float, default=600, help="time without a step after which all stop"
    )
    split = arguments.index("--") if "--" in arguments else len(arguments)
    options, unknown = parser.parse_known_args(arguments[:split])
    options.training = arguments[split + 1 :]
    if unknown:
        remedy = "; write `--` before those of the training" if not options.training else ""
        parser.error(f"unrecognized arguments: {' '.join(unknown)}{remedy}")
    if not options.training:
        parser.error("missing arguments of the training; write `-- --config=... --workdir=...`")
    return options


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(
            f"invalid value '{text}': expected an integer of at least 1"
        )
    return int(text)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
