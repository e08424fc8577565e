"""A lock on a workdir, so that no two trainings write into it."""

import fcntl
import os
import socket
import weakref
from pathlib import Path

import jax

from research.common.errors import UserError
from research.common.storage import AnyPath, is_in_bucket

FILE = "lock"


class WorkdirLock:
    """Locks a workdir until this object or its process ends; the kernel unlocks it, after any end.

    Several objects of one process share the lock, which ends with the last of them. Of the
    processes of a training only the first takes the lock, so the others do not conflict. A workdir
    in a bucket is not locked: Cloud Storage has no lock that ends with its process.

    Args:
      workdir: the folder; it is created if missing.

    Raises:
      UserError: another training holds the lock; the message names its process.
    """

    def __init__(self, workdir: AnyPath):
        if is_in_bucket(workdir) or jax.process_index() > 0:
            return
        try:
            workdir.mkdir(parents=True, exist_ok=True)
            self._file = _locked_file(Path(workdir / FILE))
        except OSError as error:
            raise UserError(
                f"cannot write {workdir}: {error.strerror}; choose another path"
            ) from None
        if self._file.owner:
            raise UserError(
                f"{workdir} is in use by {self._file.owner}; wait for its end, or choose another "
                "--workdir"
            )


class _LockedFile:
    """A file that is locked until this object ends.

    Attributes:
      owner: the process that holds the lock; empty if it is this one.
    """

    def __init__(self, path: Path):
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        weakref.finalize(self, os.close, file)
        self.owner = ""
        try:
            # Of the process, and not inherited by children; `flock` does not work on all NFS.
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            self.owner = os.read(file, 1000).decode(errors="replace").strip() or "another process"
        except OSError:
            pass  # a file system without locks
        else:
            os.ftruncate(file, 0)
            os.write(file, f"process {os.getpid()} on {socket.gethostname()}\n".encode())


# The files that this process has locked, by device and inode.
_LOCKED: "weakref.WeakValueDictionary[tuple[int, int], _LockedFile]" = weakref.WeakValueDictionary()


def _locked_file(path: Path) -> _LockedFile:
    """Returns the locked file of a path, which this process opens only once.

    The kernel unlocks a file as soon as its process closes any descriptor of it.
    """
    if not path.exists():
        path.touch()
    status = path.stat()
    key = status.st_dev, status.st_ino
    file = _LOCKED.get(key) or _LockedFile(path)
    if not file.owner:
        _LOCKED[key] = file
    return file
