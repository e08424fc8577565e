"""The device mesh, and the sharding of arrays over it."""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from research.common.errors import ConfigError
from research.common.patterns import REST, check_patterns, match, path_name

AXES = ("data", "fsdp", "tensor")
Rule = tuple[str | None, ...] | str
Rules = tuple[tuple[Any, ...], ...]  # (pattern, rule) pairs


@dataclass(frozen=True)
class MeshConfig:
    """The shape of the device mesh, and the sharding of parameters over it."""

    devices: int = -1
    """Number of devices; -1 selects all."""

    data: int = -1
    """Size of the axis that splits the batch and replicates parameters; -1: all other devices."""

    fsdp: int = 1
    """Size of the axis that splits the batch and, by the rule "fsdp", the parameters."""

    tensor: int = 1
    """Size of the axis that splits single parameters by explicit rules, and not the batch."""

    rules: Rules = ((REST, "fsdp"),)
    """(pattern, rule) pairs; the first pattern that matches a parameter's path decides.

    The rule "fsdp" splits the largest divisible axis over `fsdp`; "replicate" copies the parameter;
    a tuple such as `(None, "tensor")` has a mesh axis, or None, for each axis of the parameter.
    """

    def __post_init__(self):
        for key in ("devices", *AXES):
            size, open_ended = getattr(self, key), key in ("devices", "data")
            if size < 1 and not (open_ended and size == -1):
                problem = f"invalid value {size}: expected at least 1{' or -1' * open_ended}"
                raise ConfigError(key, problem)
        check_patterns(self.rules, "rules")
        for _, rule in self.rules:
            _check_rule(rule)

    def build(self, devices: Sequence[jax.Device]) -> Mesh:
        """Returns the mesh over the first of the given devices.

        Raises:
          ConfigError: the axes do not multiply to the number of devices.
        """
        count = len(devices) if self.devices == -1 else self.devices
        rest = self.fsdp * self.tensor
        data = count // rest if self.data == -1 else self.data
        if count > len(devices):
            problem = (
                f"invalid number {count}: expected at most {len(devices)}, the available devices"
            )
            raise ConfigError("mesh.devices", problem)
        if data * rest != count:
            shape = f"data={self.data}, fsdp={self.fsdp}, tensor={self.tensor}"
            raise ConfigError("mesh", f"{shape} do not multiply to {count} devices; set data to -1")
        return jax.make_mesh(
            (data, self.fsdp, self.tensor),
            AXES,
            axis_types=(AxisType.Auto,) * len(AXES),
            devices=devices[:count],
        )


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of arrays [batch, ...], split along their first axis."""
    return NamedSharding(mesh, PartitionSpec(("data", "fsdp")))


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of arrays that are replicated on every device."""
    return NamedSharding(mesh, PartitionSpec())


def on_host(tree: Any) -> Any:
    """Returns numpy arrays of a tree of arrays, complete on every process however sharded."""
    first = jax.tree.leaves(tree)[0]
    if isinstance(first, jax.Array) and not first.is_fully_addressable:
        sharding: Any = first.sharding
        whole = replicated(sharding.mesh)
        tree = jax.jit(lambda tree: tree, out_shardings=whole)(tree)
    return jax.device_get(tree)


def batch_shards(mesh: Mesh) -> int:
    """Returns the number of parts that a batch is split into."""
    return mesh.shape["data"] * mesh.shape["fsdp"]


def parameter_shardings(params: Any, mesh: Mesh, rules: Rules) -> Any:
    """Returns a `NamedSharding` for each parameter of an (abstract) tree.

    Raises:
      ConfigError: an explicit rule does not fit a parameter that it matches, or matches none.
    """
    chosen = match(params, rules, "mesh.rules", default="replicate")

    def sharding(path: Any, leaf: Any, rule: Rule) -> NamedSharding:
        return NamedSharding(mesh, _spec(rule, path_name(path), leaf.shape, mesh))

    return jax.tree_util.tree_map_with_path(sharding, params, chosen)


def with_sharding(shape: Any, sharding: jax.sharding.Sharding) -> jax.ShapeDtypeStruct:
    """Returns the shape and dtype of an array that is sharded."""
    return jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=sharding)


def shares_cores(mesh: Mesh) -> bool:
    """Returns whether several devices are emulated on one CPU.

    Their collectives can deadlock when several steps are in flight at once.
    """
    return mesh.devices.flat[0].platform == "cpu" and mesh.devices.size > 1


def describe(mesh: Mesh) -> str:
    """Describes the hardware of a mesh, such as `1 x cpu (2 cores)`."""
    device = mesh.devices.flat[0]
    cores = f" ({os.cpu_count()} cores)" if device.platform == "cpu" else ""
    return f"{mesh.devices.size} x {device.device_kind}{cores}"


def _check_rule(rule: Rule) -> None:
    if isinstance(rule, str):
        if rule not in ("fsdp", "replicate"):
            known = "'fsdp', 'replicate' or a tuple of mesh axes"
            raise ConfigError("rules", f"unknown rule '{rule}': expected {known}")
    elif unknown := [axis for axis in rule if axis is not None and axis not in AXES]:
        known = ", ".join(AXES)
        raise ConfigError("rules", f"unknown mesh axis '{unknown[0]}': expected one of {known}")


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
