"""The processes that train together: how they join, tell that they live, and leave."""

import faulthandler
import os
import signal
import sys
from functools import cache
from typing import NoReturn

import jax

_ENVIRONMENT = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")


def join() -> None:
    """Makes this process one of several where the environment says so; to be called before any use.

    The launcher sets the address, the number and the place; on Kubernetes JAX finds them itself.
    """
    beat(0)
    if all(name in os.environ for name in _ENVIRONMENT):
        address, count, place = (os.environ[name] for name in _ENVIRONMENT)
        if int(count) > 1:
            jax.distributed.initialize(
                address, int(count), int(place), cluster_detection_method="deactivate"
            )
    elif len(os.environ.get("TPU_WORKER_HOSTNAMES", "").split(",")) > 1:
        jax.distributed.initialize()


def are_several() -> bool:
    """Whether this process has joined others."""
    return jax.distributed.is_initialized()


def beat(step: int | None = None) -> None:
    """Tells the launcher, where there is one, that this process goes on.

    Args:
      step: the training step that begins; None: as before.
    """
    if heart := _heart():
        heart.beat(step)


def leave(code: int) -> NoReturn:
    """Ends this process, of several at once: tidying up waits for the others, for minutes."""
    if not are_several():
        sys.exit(code)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


class _Heart:
    """A small file: the step that was begun last, and the number of beats."""

    def __init__(self, path: str):
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT)
        self._step = self._count = 0
        # The launcher asks for the stacks of a process that has stopped to beat.
        faulthandler.register(signal.SIGUSR1)

    def beat(self, step: int | None) -> None:
        self._step = self._step if step is None else step
        self._count += 1
        os.pwrite(self._file, f"{self._step:20d} {self._count:20d}\n".encode(), 0)


@cache
def _heart() -> _Heart | None:
    path = os.environ.get("POLYMATH_HEARTBEAT")
    return _Heart(path) if path else None
