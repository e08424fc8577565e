#!/usr/bin/env python3
"""The training of a slice on one machine: so many real processes, each under an agent as on a VM.

python launch/local_slice.py --processes=4 --devices=2 -- \\
    --config=experiments/image_classification/digits_cnn.py --workdir=runs/slice

Each process has some emulated CPU devices; they speak to each other through gloo. Each line of
their logs is shown with its process before it. The first process that fails ends all.
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
HOLD_SECONDS = 15.0  # for all to end after a user's error, so that its line can stand alone


class Slice:
    """So many agents, each in a folder of its own, that train together.

    Args:
      folder: for all that they write.
      processes: how many.
      arguments: of Python, in each process.
      environment: of each, beside this process's own.
      job: what else the agents are told, such as `stall_seconds`.
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
        """Whether an agent lives."""
        return any(agent.poll() is None for agent in self.agents)

    def new_lines(self) -> list[tuple[int, str]]:
        """What the processes have printed since the last call: process and line."""
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
        """Asks all to save and to end; with SIGKILL they end at once, and their processes too."""
        for agent in self.agents:
            agent.signal(number)

    def verdict(self) -> dict[str, Any]:
        """How it ended, as the agents that saw the end agreed."""
        results = [read_json(folder / "result.json") for folder in self._folders]
        lost = {"outcome": "failed", "rank": 0, "cause": "all agents were killed", "code": 1}
        return next((result for result in results if result), dict(lost, traceback=""))

    def _start_agent(self, rank: int, job: dict[str, Any], shared: dict[str, str]) -> Child:
        folder = self._folders[rank]
        folder.mkdir(parents=True)
        command = [sys.executable, str(AGENT), "supervise", f"--job={json.dumps(job)}"]
        environment = dict(os.environ, POLYMATH_ROOT=str(folder), **shared)
        with (folder / "supervisor.log").open("wb") as output:
            # Where this process is killed, an agent still ends its training in order.
            return Child([*command, f"--rank={rank}"], ROOT, environment, output, signal.SIGTERM)


class Screen:
    """Shows the lines of the processes.

    From a line on that begins with `error: ` it holds back all, for a while: where that was a
    user's error, what others say of the end that it brought them is not to be shown.
    """

    def __init__(self, output: IO[str]):
        self._output = output
        self._held: list[tuple[int, str]] = []
        self._until: float | None = None

    def show(self, lines: list[tuple[int, str]]) -> None:
        """Shows the lines of the call before: what led to them may be among the new ones."""
        if self._until is None and any(line.startswith("error: ") for _, line in lines):
            self._until = time.monotonic() + HOLD_SECONDS
        elif self._until is None or time.monotonic() > self._until:
            self.flush()
        self._held += [(rank, line) for rank, line in lines if not NOISE.match(line)]

    def flush(self) -> None:
        """Shows what was held back."""
        for rank, line in self._held:
            print(f"[{rank}] {line}", file=self._output)
        self._output.flush()
        self._held, self._until = [], None

    def flush_before_errors(self) -> None:
        """Shows of each process only what it said before its own error."""
        errors: dict[int, int] = {}
        for i, (rank, line) in enumerate(self._held):
            if line.startswith("error: "):
                errors.setdefault(rank, i)
        self._held = [
            (rank, line) for i, (rank, line) in enumerate(self._held) if i < errors.get(rank, 0)
        ]
        self.flush()


def follow(training: Slice, output: IO[str]) -> dict[str, Any]:
    """Shows what a slice prints until it has ended; the verdict."""
    screen = Screen(output)
    while training.is_running():
        screen.show(training.new_lines())
        time.sleep(TICK_SECONDS)
    screen.show(training.new_lines())
    verdict = training.verdict()
    screen.flush_before_errors() if is_user_error(verdict) else screen.flush()
    return verdict


def is_user_error(verdict: dict[str, Any]) -> bool:
    """Whether a user's error ended all."""
    return verdict["code"] == 2 and str(verdict["traceback"]).startswith("error: ")


def summary(verdict: dict[str, Any]) -> str:
    """The verdict as the last words of a run."""
    if verdict["outcome"] == "finished":
        return "finished"
    if is_user_error(verdict):
        return str(verdict["traceback"])
    told = f"{verdict['outcome']}: process {verdict['rank']}: {verdict['cause']}"
    return f"{told}\n{verdict['traceback']}".rstrip()


def cpu_environment(devices: int) -> dict[str, str]:
    """Has JAX emulate so many devices in each process."""
    forced = r"--xla_force_host_platform_device_count=\S+"  # would go before the number given here
    return {
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": str(devices),
        "JAX_CPU_COLLECTIVES_IMPLEMENTATION": "gloo",
        "XLA_FLAGS": re.sub(forced, "", os.environ.get("XLA_FLAGS", "")),
    }


def free_ports(count: int) -> list[int]:
    """Ports on which nobody listens now."""
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(("", 0))
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


def next_attempt(workdir: str | None) -> int:
    """The number of this attempt, after those whose logs lie in the workdir."""
    found = Path(workdir or "").glob("logs/attempt-*") if workdir else ()
    return 1 + max((int(path.name.rpartition("-")[2]) for path in found), default=0)


def main(arguments: list[str]) -> int:
    """Trains; the exit code is that of the process that failed."""
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
    """The first Ctrl-C or SIGTERM lets the run save itself, the second kills it."""

    def stop(number: int, frame: FrameType | None) -> None:
        training.stop(signal.SIGKILL if asked else signal.SIGTERM)
        asked.append(number)

    asked: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)


def _python_path() -> str:
    """The modules of this repository, from wherever this is called."""
    return os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))


def _flag(arguments: list[str], name: str) -> str | None:
    """The value of a flag as absl reads it: `--name=value` or `--name value`."""
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
    parser.add_argument("--processes", type=_positive, default=2, help="how many")
    parser.add_argument("--devices", type=_positive, default=1, help="emulated by each process")
    parser.add_argument(
        "--stall-seconds", type=float, default=600, help="without a step, after which all is ended"
    )
    split = arguments.index("--") if "--" in arguments else len(arguments)
    options = parser.parse_args(arguments[:split])
    options.training = arguments[split + 1 :]
    if not options.training:
        parser.error("nothing to train; give -- and then --config=... --workdir=...")
    return options


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is no number from 1 on")
    return int(text)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
