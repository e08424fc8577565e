import math

import jax
import jax.numpy as jnp

from research.hardware.memory import available_bytes, needed_bytes


def test_donated_arguments_count_once():
    array = jax.ShapeDtypeStruct((1000,), jnp.float32)
    plain = needed_bytes(jax.jit(lambda x: x + 1).lower(array).compile())
    donated = needed_bytes(jax.jit(lambda x: x + 1, donate_argnums=0).lower(array).compile())
    assert (plain, donated) == (8000, 4000)


def test_a_cpu_has_the_free_memory_of_its_machine():
    assert 1e6 < available_bytes(jax.devices()[0]) < math.inf
