"""The platform that a program is traced for, which may differ from the host's.

Layers that choose an implementation by platform call `target()` while they are traced. Steps are
traced inside `compile_for(mesh)`, so that a step for an absent TPU contains the TPU's choices.
"""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple, ParamSpec, TypeVar

import jax
from jax.sharding import Mesh

P = ParamSpec("P")
R = TypeVar("R")


class Target(NamedTuple):
    """The hardware that a program is compiled for."""

    platform: str  # "cpu", "gpu" or "tpu"; "any" for a program that runs on each of them
    devices: int  # number of devices of the program


_target: ContextVar[Target | None] = ContextVar("target", default=None)


@contextmanager
def compile_for(mesh: Mesh) -> Iterator[None]:
    """A context in which `target()` describes a mesh."""
    token = _target.set(Target(mesh.devices.flat[0].platform, mesh.devices.size))
    try:
        yield
    finally:
        _target.reset(token)


@contextmanager
def compile_for_any_platform() -> Iterator[None]:
    """A context in which layers choose what every platform can run, on one device."""
    token = _target.set(Target("any", 1))
    try:
        yield
    finally:
        _target.reset(token)


def traced_for(mesh: Mesh, function: Callable[P, R]) -> Callable[P, R]:
    """Returns a function to be jitted, which is traced inside `compile_for(mesh)`."""

    @functools.wraps(function)
    def traced(*args: P.args, **kwargs: P.kwargs) -> R:
        with compile_for(mesh):
            return function(*args, **kwargs)

    return traced


def target() -> Target:
    """Returns the current target; outside of `compile_for`, JAX's default device."""
    return _target.get() or Target(jax.default_backend(), 1)


def loops_are_slow() -> bool:
    """Returns whether XLA runs operations inside a loop much slower than outside.

    XLA's CPU backend runs them on one thread: a convolutional network took 40 times as long.
    """
    return target().platform == "cpu"


def has_cudnn() -> bool:
    """Returns whether cuDNN kernels are available: on a single GPU, in unpartitioned programs."""
    return target() == Target("gpu", 1)
