import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.hardware.target import Target
from research.tasks.image_classification.models.pooling import max_pool_2x2
from tests.tpu import tpu_operations


def test_max_pool_2x2_and_its_gradient_are_the_same_on_every_platform(monkeypatch):
    x = jax.random.normal(jax.random.key(0), (2, 7, 10, 3))
    module = "research.tasks.image_classification.models.pooling"

    def pooled_and_gradient(platform):
        monkeypatch.setattr(f"{module}.target", lambda: Target(platform, 1))
        pooled, gradient = jax.jit(lambda x: jax.vjp(max_pool_2x2, x))(x)
        return pooled, *gradient(pooled)

    expected = pooled_and_gradient("cpu")
    for platform in ("tpu", "any"):
        for a, b in zip(pooled_and_gradient(platform), expected, strict=True):
            assert np.array_equal(a, b)


@pytest.mark.slow
def test_max_pool_2x2_on_a_tpu_is_that_of_flax():
    x = jax.ShapeDtypeStruct((8, 32, 32, 64), jnp.bfloat16)
    operations = tpu_operations(jax.grad(lambda x: (max_pool_2x2(x) ** 2).sum()), x)
    assert operations["select-and-scatter"] == 1
