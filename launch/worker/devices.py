"""Frees the TPU, which serves a single process, from leftover processes."""

from __future__ import annotations

import contextlib
import fnmatch
import os
import signal
import time
from pathlib import Path

DEVICES = ("/dev/accel*", "/dev/vfio/*")
LOCK_FILE = Path("/tmp/libtpu_lockfile")


def free() -> list[str]:
    """Kills the processes that use the TPU, removes libtpu's lock file, and returns their commands.

    Only root sees the processes of other users.
    """
    killed = kill_holders(DEVICES)
    with contextlib.suppress(OSError):
        LOCK_FILE.unlink()
    return killed


def kill_holders(patterns: tuple[str, ...]) -> list[str]:
    """Kills every process that has a matching file open, and waits until they exit."""
    pids = holders(patterns)
    killed = [f"{pid} {_command(pid)}" for pid in pids]
    for pid in pids:
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and holders(patterns):
        time.sleep(0.1)
    return killed


def holders(patterns: tuple[str, ...]) -> list[int]:
    """Returns the PIDs of other visible processes that have a matching file open."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        if int(process.name) != os.getpid() and any(
            fnmatch.fnmatch(target, pattern)
            for target in _open_files(process)
            for pattern in patterns
        ):
            found.append(int(process.name))
    return sorted(found)


def _open_files(process: Path) -> list[str]:
    targets = []
    with contextlib.suppress(OSError):
        for link in (process / "fd").iterdir():
            with contextlib.suppress(OSError):
                targets.append(os.readlink(str(link)))
    return targets


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
    except OSError:
        return ""
