"""The mesh of devices, and which part of each array lies on which of them."""

import math
import os
import re
from dataclasses import dataclass
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from research.common.errors import ConfigError

AXES = ("data", "fsdp", "tensor")
Rule = tuple[str | None, ...] | str


@dataclass(frozen=True)
class MeshConfig:
    """How the devices are arranged, and how parameters are laid over them."""

    devices: int = -1
    """How many of the devices to use; -1: all."""

    data: int = -1
    """Devices along which the batch is split and parameters are copied; -1: all that remain."""

    fsdp: int = 1
    """Devices along which the batch and, by the rule "fsdp", the parameters are split."""

    tensor: int = 1
    """Devices along which single parameters are split by explicit rules; the batch is not."""

    rules: tuple[tuple[Any, ...], ...] = ((".*", "fsdp"),)
    """(pattern, rule) pairs; the first pattern found in a parameter's path decides.

    The rule "fsdp" splits the largest divisible axis over `fsdp`; "replicate" copies; a tuple such
    as `(None, "tensor")` names a mesh axis, or None, for each axis of the parameter.
    """

    def __post_init__(self):
        for key in ("devices", *AXES):
            size, open_ended = getattr(self, key), key in ("devices", "data")
            if size < 1 and not (open_ended and size == -1):
                raise ConfigError(key, f"must be at least 1{' or -1' * open_ended}, is {size}")
        for rule in self.rules:
            if len(rule) != 2 or not isinstance(rule[0], str):
                raise ConfigError("rules", f"expected (pattern, rule), got {rule!r}")
            _check_rule(*rule)

    def build(self) -> Mesh:
        """The mesh.

        Raises:
          ConfigError: the axes do not multiply to the number of devices.
        """
        there = jax.devices()
        devices = len(there) if self.devices == -1 else self.devices
        rest = self.fsdp * self.tensor
        data = devices // rest if self.data == -1 else self.data
        if devices > len(there):
            raise ConfigError("mesh.devices", f"there are only {len(there)}, not {devices}")
        if data * rest != devices:
            shape = f"data={self.data}, fsdp={self.fsdp}, tensor={self.tensor}"
            raise ConfigError("mesh", f"{shape} does not make {devices} devices; let data be -1")
        return jax.make_mesh(
            (data, self.fsdp, self.tensor),
            AXES,
            axis_types=(AxisType.Auto,) * len(AXES),
            devices=there[:devices],
        )


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Arrays [batch, ...] split along their first axis."""
    return NamedSharding(mesh, PartitionSpec(("data", "fsdp")))


def replicated(mesh: Mesh) -> NamedSharding:
    """Arrays that every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def batch_shards(mesh: Mesh) -> int:
    """Into how many parts a batch is split."""
    return mesh.shape["data"] * mesh.shape["fsdp"]


def parameter_shardings(params: Any, mesh: Mesh, rules: tuple[tuple[Any, ...], ...]) -> Any:
    """A `NamedSharding` for each parameter of an (abstract) tree.

    Raises:
      ConfigError: an explicit rule does not fit a parameter it matches, or matches none.
    """
    unused = {pattern for pattern, _ in rules}

    def place(path: Any, leaf: Any) -> NamedSharding:
        name = path_name(path)
        for pattern, rule in rules:
            if re.search(pattern, name):
                unused.discard(pattern)
                return NamedSharding(mesh, _spec(rule, name, leaf.shape, mesh))
        return replicated(mesh)

    shardings = jax.tree_util.tree_map_with_path(place, params)
    # ".*" at the end is the rest, and the rest may be empty.
    if unused - {".*"}:
        names = ", ".join(
            path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)
        )
        pattern = sorted(unused - {".*"})[0]
        raise ConfigError(
            "mesh.rules", f"'{pattern}' matches no parameter first; there are: {names}"
        )
    return shardings


def path_name(path: Any) -> str:
    """`Dense_0/kernel` for a key path."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def shares_cores(mesh: Mesh) -> bool:
    """Whether several devices are emulated by one processor.

    Their collectives can wait for each other forever when many steps are under way at once.
    """
    return mesh.devices.flat[0].platform == "cpu" and mesh.devices.size > 1


def loops_are_slow() -> bool:
    """Whether what stands in a loop of XLA runs much slower than outside.

    On CPUs it does without the threads: a convolutional network took 40 times as long.
    """
    return jax.default_backend() == "cpu"


def has_cudnn() -> bool:
    """Whether cuDNN is there and a program is on one device: its kernels cannot be split."""
    return jax.default_backend() == "gpu" and jax.device_count() == 1


def describe() -> str:
    """The hardware in words, such as `1 x cpu (2 cores)`."""
    device = jax.devices()[0]
    cores = f" ({os.cpu_count()} cores)" if device.platform == "cpu" else ""
    return f"{jax.device_count()} x {device.device_kind}{cores}"


def _check_rule(pattern: str, rule: Rule) -> None:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ConfigError("rules", f"'{pattern}' is no regular expression: {error}") from None
    if isinstance(rule, str):
        if rule not in ("fsdp", "replicate"):
            raise ConfigError(
                "rules", f"no rule '{rule}'; known: fsdp, replicate, or a tuple of axes"
            )
    elif unknown := [axis for axis in rule if axis is not None and axis not in AXES]:
        raise ConfigError("rules", f"no mesh axis '{unknown[0]}'; known: {', '.join(AXES)}")


def _spec(rule: Rule, name: str, shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
    if rule == "replicate":
        return PartitionSpec()
    if rule == "fsdp":
        size = mesh.shape["fsdp"]
        divisible = [axis for axis, n in enumerate(shape) if n % size == 0 and n >= size]
        if size == 1 or not divisible:
            return PartitionSpec()
        largest = max(divisible, key=lambda axis: shape[axis])
        return PartitionSpec(*("fsdp" if axis == largest else None for axis in range(len(shape))))
    sizes = [mesh.shape[axis] if axis else 1 for axis in rule]
    fits = len(rule) == len(shape) and all(n % k == 0 for n, k in zip(shape, sizes, strict=True))
    if not fits:
        parts = math.prod(sizes)
        raise ConfigError("mesh.rules", f"{rule} cannot split {name} {list(shape)} in {parts}")
    return PartitionSpec(*rule)
