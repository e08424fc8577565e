import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.experimental import rnn

from research.hardware.target import has_cudnn
from research.layers.recurrent import LSTM, Carry, Kernels, cudnn_lstm, cudnn_weights, scan_lstm

TIME, BATCH, INPUTS, FEATURES = 7, 3, 5, 4
LENGTHS = jnp.array([7, 4, 1])


@pytest.fixture
def x():
    return jax.random.normal(jax.random.key(0), (BATCH, TIME, INPUTS))


def make(x, **options):
    layer = LSTM(FEATURES, **options)
    return layer, jax.jit(layer.init)(jax.random.key(1), x, LENGTHS)


def kernels_of(params):
    """Returns the layer's parameters by direction."""
    params = params["params"]
    return [
        Kernels(*(params[f"{name}_{part}"] for part in Kernels._fields))
        for name in ("forward", "backward")
        if f"{name}_input" in params
    ]


def flax_lstm(x, lengths, kernels):
    """Computes Flax's bidirectional LSTM with the same parameters, differentiated by autodiff."""

    def cell_params(kernel):
        gates = {}
        for name, w, r, b in zip("ifgo", *(jnp.split(part, 4, -1) for part in kernel), strict=True):
            gates |= {f"i{name}": {"kernel": w}, f"h{name}": {"kernel": r, "bias": b}}
        return {"params": {"cell": gates}}

    outputs = []
    for reverse, kernel in zip((False, True), kernels, strict=False):
        layer = nn.RNN(nn.OptimizedLSTMCell(FEATURES), reverse=reverse, keep_order=True)
        outputs.append(layer.apply(cell_params(kernel), x, seq_lengths=lengths))
    valid = jnp.arange(x.shape[1])[:, None] < lengths[:, None, None]
    return jnp.concatenate(outputs, -1) * valid.astype(jnp.float32)


@pytest.mark.parametrize("unroll", [pytest.param(1, marks=pytest.mark.slow), 3])
def test_outputs_and_gradients_equal_those_of_flax(x, unroll):
    _, params = make(x)
    shift = jnp.linspace(-0.5, 0.5, 4 * FEATURES)
    kernels = [kernel._replace(bias=kernel.bias + shift) for kernel in kernels_of(params)]
    weight = jax.random.normal(jax.random.key(2), (BATCH, TIME, 2 * FEATURES))
    zeros = jnp.zeros((2, BATCH, FEATURES))

    def ours(x, kernels):
        out, _ = scan_lstm(x, LENGTHS, kernels, Carry(zeros, zeros), unroll)
        return (out * weight).sum(), out

    def expected(x, kernels):
        out = flax_lstm(x, LENGTHS, kernels)
        return (out * weight).sum(), out

    (d_ours, ours), (d_expected, expected) = (
        jax.jit(jax.grad(f, argnums=(0, 1), has_aux=True))(x, kernels) for f in (ours, expected)
    )
    np.testing.assert_allclose(ours, expected, atol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6), d_ours, d_expected)


def test_result_does_not_depend_on_padding(x):
    layer, params = make(x)
    padded = jnp.pad(x, ((0, 0), (0, 5), (0, 0)), constant_values=9.0)

    def run(params, x):
        out, carry = layer.apply(params, x, LENGTHS)
        return (out[:, :TIME] ** 2).sum() + (carry.cell**3).sum(), (out, carry)

    gradient = jax.jit(jax.grad(run, has_aux=True))
    d_short, (short, carry) = gradient(params, x)
    d_long, (long, long_carry) = gradient(params, padded)
    np.testing.assert_allclose(long[:, :TIME], short, atol=1e-6)
    assert not long[:, TIME:].any() and not short[2, 1:].any()
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), carry, long_carry)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), d_short, d_long)


@pytest.mark.slow
def test_chunks_with_carried_state_equal_the_full_sequence(x):
    """Gradients flow through the state."""
    layer, params = make(x, bidirectional=False)
    lengths = jnp.full(BATCH, TIME)

    def whole(x):
        out, carry = layer.apply(params, x, lengths)
        return (out**2).sum() + carry.cell.sum(), out

    def halves(x):
        first, carry = layer.apply(params, x[:, :3], jnp.full(BATCH, 3))
        second, carry = layer.apply(params, x[:, 3:], jnp.full(BATCH, TIME - 3), carry)
        out = jnp.concatenate([first, second], 1)
        return (out**2).sum() + carry.cell.sum(), out

    (d_whole, one), (d_halves, two) = (
        jax.jit(jax.grad(f, has_aux=True))(x) for f in (whole, halves)
    )
    np.testing.assert_allclose(one, two, atol=1e-6)
    np.testing.assert_allclose(d_whole, d_halves, atol=1e-5)


def test_bfloat16_is_close_to_float32(x):
    layer, params = make(x)
    bfloat16_layer = LSTM(FEATURES, dtype=jnp.bfloat16)
    (exact, _), (rounded, _) = (
        jax.jit(one.apply)(params, x, LENGTHS) for one in (layer, bfloat16_layer)
    )
    assert rounded.dtype == jnp.bfloat16
    np.testing.assert_allclose(rounded.astype(jnp.float32), exact, atol=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("bidirectional", [False, True])
def test_cudnn_weights_have_the_layout_of_the_reference(x, bidirectional):
    """The reference is JAX's own implementation, which runs on every platform."""
    layer, params = make(x, bidirectional=bidirectional)
    weights = cudnn_weights(kernels_of(params))
    zeros = jnp.zeros((1 + bidirectional, BATCH, FEATURES))
    sizes = (INPUTS, FEATURES, 1, bidirectional)
    out, hidden, cell = rnn.lstm_ref(
        x,
        zeros,
        zeros,
        *rnn.unpack_lstm_weights(weights, *sizes),
        LENGTHS,
        *sizes[:3],
        0.0,
        bidirectional,
    )
    ours, carry = layer.apply(params, x, LENGTHS)
    valid = jnp.arange(TIME)[:, None] < LENGTHS[:, None, None]
    np.testing.assert_allclose(np.where(valid, out, 0), ours, atol=1e-6)
    np.testing.assert_allclose(hidden, carry.hidden, atol=1e-6)
    np.testing.assert_allclose(cell, carry.cell, atol=1e-6)


@pytest.mark.skipif(not has_cudnn(), reason="needs a GPU")
def test_cudnn_equals_the_scan(x):
    _, params = make(x)
    kernels, zeros = kernels_of(params), jnp.zeros((2, BATCH, FEATURES))

    def run(implementation):
        def loss(x, kernels):
            out, carry = implementation(x, LENGTHS, kernels, Carry(zeros, zeros))
            return (out**2).sum() + carry.cell.sum(), (out, carry)

        return jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))(x, kernels)

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-3), run(cudnn_lstm), run(scan_lstm)
    )
