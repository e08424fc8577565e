"""What the TPU compiler makes of a function, on a machine without a TPU."""

import importlib.util
import math
from collections import Counter

import jax
import pytest

from research.hardware import compiler, hlo
from research.hardware.mesh import MeshConfig, batch_sharding
from research.hardware.slices import parse_slice
from research.hardware.target import traced_for


def tpu_operations(function, *args, chips=1) -> Counter[str]:
    """Returns how often each HLO operation occurs in a function compiled for TPU v5e chips.

    Custom calls count under their targets, such as "TopK"; gathers of single elements, which are
    serial, also as "element gather". Skips the test where libtpu is missing.

    Args:
      function: is traced with the mesh of the chips as the target.
      *args: trees of arrays or of their shapes and dtypes; the first axis is split over the chips.
      chips: the number of chips.
    """
    if importlib.util.find_spec("libtpu") is None:
        pytest.skip("libtpu is not installed; `make plan` does")
    mesh = MeshConfig().build(compiler.devices_of(parse_slice(f"v5e-{chips}")))
    jitted = jax.jit(traced_for(mesh, function), in_shardings=batch_sharding(mesh))
    program = hlo.parse(jitted.lower(*args).compile().as_text())
    operations: Counter[str] = Counter()
    for computation in program.computations.values():
        for one in computation.instructions.values():
            operations[one.attribute(r'custom_call_target="(\w+)"') or one.opcode] += 1
            sizes = one.attribute(r"slice_sizes=\{([\d,]+)\}")
            if sizes and math.prod(map(int, sizes.split(","))) == 1:
                operations["element gather"] += 1
    return operations
