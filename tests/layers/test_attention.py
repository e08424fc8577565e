import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.layers.attention import MultiHeadAttention, additive_attention

BATCH, QUERIES, KEYS, FEATURES = 2, 3, 5, 8
X = jax.random.normal(jax.random.key(0), (BATCH, QUERIES, FEATURES))
MEMORY = jax.random.normal(jax.random.key(1), (BATCH, KEYS, FEATURES))


def attend(module, variables, mask):
    def both(module, x, memory):
        return module(x, *module.keys_values(memory), mask, train=False)

    return module.apply(variables, X, MEMORY, method=both)


def initial(module):
    def call(module, x, memory):
        return module(x, *module.keys_values(memory), jnp.ones((1, 1, 1), bool), train=False)

    return module.init(jax.random.key(2), X, MEMORY, method=call)


@pytest.mark.slow
def test_multi_head_attention_equals_that_of_jax():
    module = MultiHeadAttention(FEATURES, num_heads=2)
    variables = initial(module)
    mask = jnp.arange(KEYS) < jnp.array([[[5]], [[3]]])
    output, weights = attend(module, variables, jnp.broadcast_to(mask, (BATCH, QUERIES, KEYS)))

    def inner(module, x, memory):
        keys, values = module.keys_values(memory)
        return module.out(
            jax.nn.dot_product_attention(module.query(x), keys, values, mask=mask[:, None])
        )

    expected = module.apply(variables, X, MEMORY, method=inner)
    np.testing.assert_allclose(output, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-6)
    assert (weights[1, :, :, 3:] == 0).all()


def test_a_fully_masked_row_is_finite():
    module = MultiHeadAttention(FEATURES, num_heads=2)
    output, _ = attend(module, initial(module), jnp.zeros((BATCH, QUERIES, KEYS), bool))
    assert np.isfinite(output).all()


def test_additive_attention_equals_its_formula():
    mask = jnp.arange(KEYS) < jnp.array([[5], [3]])
    kernel = jnp.linspace(-1, 1, FEATURES)
    context, weights = additive_attention(X, MEMORY, MEMORY, mask, kernel)
    for row, valid in enumerate((5, 3)):
        keys = np.asarray(MEMORY[row, :valid])
        for query in range(QUERIES):
            scores = np.tanh(np.asarray(X[row, query]) + keys) @ np.asarray(kernel)
            expected = np.exp(scores) / np.exp(scores).sum()
            np.testing.assert_allclose(weights[row, query, :valid], expected, rtol=1e-5)
            np.testing.assert_allclose(context[row, query], expected @ keys, rtol=1e-4, atol=1e-6)


def test_scores_are_accumulated_in_float32():
    """Sums of 256 terms rounded to bfloat16 would be off by up to 2."""
    x = jax.random.normal(jax.random.key(3), (1, 4, 256)).astype(jnp.bfloat16)
    kernel = jnp.full(256, 3, jnp.bfloat16)
    _, weights = additive_attention(x, x, x, jnp.ones((1, 4), bool), kernel)
    hidden = jnp.tanh(x[:, :, None] + x[:, None])
    scores = hidden.astype(jnp.float32) @ kernel.astype(jnp.float32)
    np.testing.assert_allclose(weights, jax.nn.softmax(scores), rtol=1e-3, atol=1e-6)
