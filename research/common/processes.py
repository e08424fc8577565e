"""The processes of a distributed run: how they connect, send heartbeats and exit."""

import faulthandler
import os
import signal
import sys
from functools import cache
from typing import NoReturn

import jax

_ENVIRONMENT = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")


def join() -> None:
    """Initializes `jax.distributed` if the environment asks for several processes.

    Call it before any other use of JAX. The launcher sets the coordinator's address, the number of
    processes and the process index; on Kubernetes JAX detects them.
    """
    heartbeat(0)
    if all(name in os.environ for name in _ENVIRONMENT):
        address, num_processes, process_id = (os.environ[name] for name in _ENVIRONMENT)
        if int(num_processes) > 1:
            jax.distributed.initialize(
                address, int(num_processes), int(process_id), cluster_detection_method="deactivate"
            )
    elif len(os.environ.get("TPU_WORKER_HOSTNAMES", "").split(",")) > 1:
        jax.distributed.initialize()


def are_several() -> bool:
    """Returns whether `jax.distributed` is initialized."""
    return jax.distributed.is_initialized()


def heartbeat(step: int | None = None) -> None:
    """Writes a heartbeat for the launcher, if one started this process.

    Args:
      step: the training step that begins; None keeps the step of the last heartbeat.
    """
    if file := _heartbeat_file():
        file.write(step)


def leave(code: int) -> NoReturn:
    """Exits with a code, without cleanup if other processes run: it would wait minutes for them."""
    if not are_several():
        sys.exit(code)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


class _HeartbeatFile:
    """A file with the last training step and the number of heartbeats."""

    def __init__(self, path: str):
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT)
        self._step = self._count = 0
        # The launcher requests the stack traces of a process whose heartbeats have stopped.
        faulthandler.register(signal.SIGUSR1)

    def write(self, step: int | None) -> None:
        self._step = self._step if step is None else step
        self._count += 1
        os.pwrite(self._file, f"{self._step:20d} {self._count:20d}\n".encode(), 0)


@cache
def _heartbeat_file() -> _HeartbeatFile | None:
    path = os.environ.get("POLYMATH_HEARTBEAT")
    return _HeartbeatFile(path) if path else None
