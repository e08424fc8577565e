"""A training of nothing: the processes add numbers up, step by step, until one of them fails.

It joins, sends heartbeats and exits as `research.train` does.
"""

import os
import sys
from itertools import count

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from research.common import cli
from research.common.processes import heartbeat
from tests.launch.failing import fail

WAY, GUILTY, STEP, TOLD = sys.argv[1:5]
MINE = os.environ["JAX_PROCESS_ID"] == GUILTY
if MINE and WAY == "exception_at_import":
    fail(WAY, TOLD)


def main(_):
    mesh = jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))
    split = NamedSharding(mesh, PartitionSpec("data"))
    add = jax.jit(lambda x: x + x.sum() / 1000, out_shardings=split)
    numbers = np.ones(jax.device_count(), np.float32)
    state = jax.make_array_from_callback(numbers.shape, split, lambda index: numbers[index])
    for step in count(1):
        if MINE and step == int(STEP):
            fail(WAY, TOLD)
        heartbeat(step)
        state = jax.block_until_ready(add(state))


if __name__ == "__main__":
    sys.argv[1:] = []
    cli.run(main, required=())
