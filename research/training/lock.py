"""A lock on a workdir, so that no two trainings write into it."""

import fcntl
import os
import socket
import weakref

import jax

from research.common.errors import UserError
from research.common.storage import AnyPath, is_in_bucket

FILE = "lock"


class WorkdirLock:
    """Locks a workdir until this object or its process ends; the kernel unlocks it, after any end.

    Of the processes of a training only the first takes the lock, so the others do not conflict. A
    workdir in a bucket is not locked: Cloud Storage has no lock that ends with its process.

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
            file = os.open(workdir / FILE, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise UserError(
                f"cannot write {workdir}: {error.strerror}; choose another path"
            ) from None
        weakref.finalize(self, os.close, file)
        try:
            # Of the process, and not inherited by children; `flock` does not work on all NFS.
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            owner = os.read(file, 1000).decode(errors="replace").strip() or "another process"
            raise UserError(
                f"{workdir} is in use by {owner}; wait for its end, or choose another --workdir"
            ) from None
        except OSError:
            return  # a file system without locks
        os.ftruncate(file, 0)
        os.write(file, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
