"""What the TPU compiler makes of a function, on a machine without a TPU."""

import os
import re
from collections import Counter

import jax
import pytest

from research.hardware.mesh import MeshConfig, batch_sharding, replicated
from research.hardware.target import traced_for

# Without these, libtpu asks the cloud's metadata server for the machine and locks itself to one
# process.
_ENVIRONMENT = {
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
}


def tpu_operations(function, *args, chips=1) -> Counter[str]:
    """Returns how often each HLO operation occurs in a function compiled for TPU v5e chips.

    Custom calls count under their targets, such as "TopK"; gathers of single elements, which are
    serial, also as "element gather". Skips the test where libtpu is missing.

    Args:
      function: is traced with the mesh of the chips as the target.
      *args: trees of arrays or of their shapes and dtypes.
      chips: 1 or 4; the first axis of every array is split over 4 chips.
    """
    pytest.importorskip("libtpu", reason="libtpu, the TPU compiler, is not installed")
    from jax.experimental import topologies

    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    shape = {"chips_per_host_bounds": [1, 1, 1]} if chips == 1 else {}
    name = {1: "v5e:1x1", 4: "v5e:2x2"}[chips]
    topology = topologies.get_topology_desc(platform="tpu", topology_name=name, **shape)
    mesh = MeshConfig().build(topology.devices)
    sharding = replicated(mesh) if chips == 1 else batch_sharding(mesh)
    jitted = jax.jit(traced_for(mesh, function), in_shardings=sharding)
    text = jitted.lower(*args).compile().as_text()
    operations = Counter(re.findall(r" = .*? ([a-z][a-z-]*)\(", text))
    operations.update(re.findall(r'custom_call_target="(\w+)"', text))
    operations["element gather"] = len(re.findall(r"slice_sizes=\{1(?:,1)*\}", text))
    return operations
