"""A child process in its own session that is killed with its parent."""

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
_UNTIL_GONE = 10.0  # seconds for a killed process to exit
# Loaded before the fork, after which loading is not safe.
_LIBC = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


class Child:
    """A process and all processes of its session.

    Create it in the main thread, because it is killed when its creating thread exits.

    Args:
      command: the program and its arguments.
      directory: the working directory.
      environment: the complete environment.
      output: receives standard output and standard error.
      parent_death_signal: the signal sent to it when its parent is killed (Linux only).
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
                if os.getppid() != parent:  # the parent died before prctl
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
        """Returns the exit code, negative for a signal; None while it runs."""
        return self._process.poll()

    def signal(self, number: int) -> None:
        """Sends a signal to the process, if it is running."""
        self._process.send_signal(number)

    def dump(self) -> None:
        """Makes it dump the stacks of its threads, after resuming it if it is stopped.

        The signal kills a process without faulthandler.
        """
        self.signal(signal.SIGUSR1)
        self.signal(signal.SIGCONT)

    def is_stopped(self) -> bool:
        """Returns whether a signal such as SIGSTOP has stopped it."""
        return _stat(self.pid)[:1] in (["T"], ["t"])

    def kill_session(self) -> None:
        """Kills all processes of the session, and waits for the child."""
        session = str(self.pid)
        _kill_all(lambda pid: _stat(pid)[3:4] == [session])
        with contextlib.suppress(OSError):  # on systems without /proc
            os.killpg(self.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):  # stuck in a driver
            self._process.wait(_UNTIL_GONE)


def kill_by_environment(variable: str) -> None:
    """Kills every process with `NAME=value` in its environment.

    Unlike a PID, which may be reused, the variable identifies the processes.
    """
    _kill_all(lambda pid: variable.encode() in _environment(pid))


def describe_exit(code: int) -> str:
    """Describes an exit code, such as `killed by SIGKILL`."""
    if code >= 0:
        return f"exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    hint = " (perhaps out of memory)" if name == "SIGKILL" else ""
    return f"killed by {name}{hint}"


def exit_code(code: int) -> int:
    """Returns an exit code as in a shell: 137 for SIGKILL."""
    return code if code >= 0 else 128 - code


def _kill_all(matches: Callable[[int], bool]) -> None:
    """Repeats until no process matches, since they may start others."""
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
    """Returns the fields from the state on (parent, group, session); empty if it exited."""
    try:
        # The process name, in parentheses, may contain spaces and parentheses.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []
