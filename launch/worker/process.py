"""A child process that lives in a session of its own and never outlives its parent."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

_SET_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG in Linux's <sys/prctl.h>
_UNTIL_GONE = 10.0  # seconds that a killed process may take
# Loaded before any fork, after which only little may be done.
_LIBC = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


class Child:
    """The process, and all that it starts in its session.

    To be made by the thread that lives longest: where that thread ends, so does the child.

    Args:
      command: the program and its arguments.
      directory: where it runs.
      environment: all of its environment.
      output: takes what it prints, errors too.
      at_parents_death: the signal that it gets when its parent is killed (on Linux alone).
    """

    def __init__(
        self,
        command: list[str],
        directory: Path,
        environment: dict[str, str],
        output: IO[bytes],
        parent_death_signal: int = signal.SIGKILL,
    ):
        parent = os.getpid()

        def tie() -> None:
            if _LIBC is not None:
                _LIBC.prctl(_SET_PARENT_DEATH_SIGNAL, parent_death_signal)
                if os.getppid() != parent:  # it died in between
                    os.kill(os.getpid(), parent_death_signal)

        self._process = subprocess.Popen(
            command,
            cwd=str(directory),
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=tie,
        )
        self.pid = self._process.pid

    def poll(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        return self._process.poll()

    def signal(self, number: int) -> None:
        """Sends a signal to the process alone, where it still runs."""
        self._process.send_signal(number)

    def dump(self) -> None:
        """Has it dump the stacks of its threads, which a stopped process does when it goes on.

        A process without faulthandler ends by this.
        """
        self.signal(signal.SIGUSR1)
        self.signal(signal.SIGCONT)

    def is_stopped(self) -> bool:
        """Whether a signal such as SIGSTOP holds it."""
        return _stat(self.pid)[:1] in (["T"], ["t"])

    def kill_session(self) -> None:
        """Kills the process and all that it started, and waits for it."""
        session = str(self.pid)
        _kill_all(lambda pid: _stat(pid)[3:4] == [session])
        with contextlib.suppress(OSError):  # where there is no /proc
            os.killpg(self.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):  # stuck in a driver
            self._process.wait(_UNTIL_GONE)


def kill_by_environment(variable: str) -> None:
    """Kills every process that has the variable, `NAME=value`, in its environment.

    Numbers of processes are given anew, after a reboot from the beginning; a mark is not.
    """
    _kill_all(lambda pid: variable.encode() in _environment(pid))


def describe_exit(code: int) -> str:
    """An exit code as a person says it, such as `killed by SIGKILL`."""
    if code >= 0:
        return f"exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    hint = " (as the system does when memory runs out)" if name == "SIGKILL" else ""
    return f"killed by {name}{hint}"


def exit_code(code: int) -> int:
    """An exit code as a shell tells it: 137 for SIGKILL."""
    return code if code >= 0 else 128 - code


def _kill_all(matches: Callable[[int], bool]) -> None:
    """Again and again until none is left: they may start others meanwhile."""
    until = time.monotonic() + _UNTIL_GONE
    while time.monotonic() < until:
        found = [pid for pid in _processes() if matches(pid) and _stat(pid)[:1] != ["Z"]]
        for pid in found:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        if not found:
            return
        time.sleep(0.02)


def _processes() -> list[int]:
    return [int(path.name) for path in Path("/proc").glob("[0-9]*")]


def _environment(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return []


def _stat(pid: int) -> list[Any]:
    """State, parent, group, session and so on; nothing where the process is gone."""
    try:
        # The name before them, in parentheses, may itself hold spaces and parentheses.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []
