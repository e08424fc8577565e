import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from research.layers.frozen import frozen_batch_norms


class Network(nn.Module):
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x, train):
        for name in ("first", "second"):
            x = nn.BatchNorm(not train, momentum=0.9, dtype=self.dtype, name=name)(x)
        return x


@pytest.fixture
def variables():
    x = jnp.ones((2, 3))
    variables = Network().init(jax.random.key(0), x, False)
    keys = jax.random.split(jax.random.key(1), len(jax.tree.leaves(variables)))
    draws = iter(keys)
    return jax.tree.map(
        lambda leaf: jax.random.uniform(next(draws), leaf.shape, minval=0.5), variables
    )


def train(variables, frozen):
    x = jax.random.normal(jax.random.key(2), (8, 3))
    with frozen_batch_norms(frozenset(frozen)):
        return Network().apply(variables, x, True, mutable=["batch_stats"])


def test_all_frozen_norms_compute_as_in_inference(variables):
    y, changed = train(variables, ["first", "second"])
    x = jax.random.normal(jax.random.key(2), (8, 3))
    np.testing.assert_allclose(y, Network().apply(variables, x, False), rtol=1e-5, atol=1e-6)
    jax.tree.map(np.testing.assert_array_equal, changed, {"batch_stats": variables["batch_stats"]})


def test_the_other_norms_are_trained(variables):
    _, changed = train(variables, ["first"])
    before = variables["batch_stats"]
    assert np.array_equal(changed["batch_stats"]["first"]["mean"], before["first"]["mean"])
    assert not np.array_equal(changed["batch_stats"]["second"]["mean"], before["second"]["mean"])


def test_without_frozen_paths_nothing_changes(variables):
    x = jax.random.normal(jax.random.key(2), (8, 3))
    expected = Network().apply(variables, x, True, mutable=["batch_stats"])
    found = train(variables, [])
    jax.tree.map(np.testing.assert_array_equal, found, expected)
