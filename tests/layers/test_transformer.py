import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.layers.transformer import (
    TransformerLayer,
    segment_mask,
    segment_positions,
    sinusoidal_embedding,
)

BATCH, LENGTH, FEATURES = 2, 6, 8
X = jax.random.normal(jax.random.key(0), (BATCH, LENGTH, FEATURES))
SEGMENTS = jnp.array([[1, 1, 1, 2, 2, 0], [1, 1, 1, 1, 1, 1]])


def layer(cross_attention):
    return TransformerLayer(FEATURES, 2, 16, 0.5, cross_attention, jnp.float32)


def apply(module, x, memory):
    """Self-attention within segments, and cross-attention to a memory of the same segments."""
    mask = segment_mask(SEGMENTS, SEGMENTS)
    read = module.memory_keys_values(memory) if module.cross_attention else None
    return module(x, module.self_keys_values(x), mask, read, mask, train=False)


def output(module, params, x, memory=X):
    return module.apply(params, x, memory, method=apply)[0]


@pytest.mark.parametrize("cross_attention", [pytest.param(False, marks=pytest.mark.slow), True])
def test_segments_are_independent(cross_attention):
    module = layer(cross_attention)
    params = module.init(jax.random.key(1), X, X, method=apply)
    changed = X.at[0, 3].multiply(jnp.linspace(-2, 2, FEATURES))
    before, after = (output(module, params, x, x) for x in (X, changed))
    np.testing.assert_allclose(after[0, :3], before[0, :3], rtol=1e-6)
    np.testing.assert_allclose(after[1], before[1], rtol=1e-6)
    assert not np.allclose(after[0, 4], before[0, 4])


def test_cross_attention_reads_the_memory():
    module = layer(cross_attention=True)
    params = module.init(jax.random.key(1), X, X, method=apply)
    assert not np.allclose(output(module, params, X, X), output(module, params, X, 2 + X))


def test_parameters_keep_their_paths():
    """Checkpoints contain them."""
    params = layer(cross_attention=True).init(jax.random.key(1), X, X, method=apply)["params"]
    assert sorted(params) == [
        *("across", "across_norm", "down", "feedforward_norm", "own", "own_norm", "up")
    ]
    assert sorted(params["own"]) == ["key", "out", "query", "value"]


def test_positions_restart_in_each_segment():
    segments = jnp.array([[1, 1, 1, 2, 2, 3, 0, 0]])
    assert segment_positions(segments)[0, :6].tolist() == [0, 1, 2, 0, 1, 0]


def test_padding_is_masked_for_every_query():
    mask = segment_mask(SEGMENTS, SEGMENTS)
    assert mask[0, 0].tolist() == [True, True, True, False, False, False]
    assert not mask[0, :, 5].any()


def test_sinusoidal_embedding_equals_its_formula():
    embedding = sinusoidal_embedding(jnp.array([0, 7]), 8)
    rates = 10_000 ** (-np.arange(4) / 4)
    np.testing.assert_allclose(embedding[0], [0, 0, 0, 0, 1, 1, 1, 1])
    expected = [*np.sin(7 * rates), *np.cos(7 * rates)]
    np.testing.assert_allclose(embedding[1], expected, rtol=1e-5)
