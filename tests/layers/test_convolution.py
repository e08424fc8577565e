import jax
import numpy as np
import pytest
from flax import linen as nn

from research.layers.convolution import max_pool_3x3


@pytest.mark.parametrize(
    ("size", "dtype"),
    [((8, 8), "float32"), ((7, 10), "float32"), ((6, 9), "bfloat16"), ((1, 2), "float32")],
)
def test_max_pool_3x3_equals_that_of_flax_bit_for_bit(size, dtype):
    x = (
        jax.random.normal(jax.random.key(0), (2, *size, 3), dtype) - 3
    )  # negative, so that zero padding would change the maximum
    padding = [(1, 1), (1, 1)]
    expected = jax.jit(lambda: nn.max_pool(x, (3, 3), (2, 2), padding=padding))()
    pooled = jax.jit(max_pool_3x3)(x)
    assert pooled.dtype == x.dtype and np.array_equal(pooled, expected)
