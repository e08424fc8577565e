import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.layers.top_k import top_k


@pytest.mark.parametrize("num_vmaps", [0, 1, 2])
def test_top_k_equals_that_of_jax_with_ties_and_under_vmap(num_vmaps):
    x = jax.random.randint(jax.random.key(0), (2, 3, 5, 9), 0, 4).astype(jnp.float32)
    select = lambda x: top_k(x, 4)  # noqa: E731
    for _ in range(num_vmaps):
        select = jax.vmap(select)
    for computed, expected in zip(jax.jit(select)(x), jax.lax.top_k(x, 4), strict=True):
        assert np.array_equal(computed, expected) and computed.dtype == expected.dtype


def test_top_k_has_no_gradient():
    gradient = jax.grad(lambda x: (x * top_k(x, 2)[0].sum()).sum())(jnp.arange(4.0))
    assert np.array_equal(gradient, [5, 5, 5, 5])
