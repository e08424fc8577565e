import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from research.layers.convolution import conv_and_norm
from research.layers.inverted_residual import InvertedResidual, SqueezeExcitation

CONV, NORM = conv_and_norm(jnp.float32, train=False)
LAYERS = {"padding": "same", "activation": nn.relu, "conv": CONV, "norm": NORM}


@pytest.mark.slow
def test_stochastic_depth_skips_the_block_of_single_examples_in_training():
    block = InvertedResidual(4, 8, 3, 1, **LAYERS, drop_rate=0.5)
    image = np.random.default_rng(0).normal(size=(1, 4, 4, 4)).astype(np.float32)
    images = jnp.repeat(jnp.asarray(image), 16, axis=0)

    @jax.jit
    def residuals():
        variables = block.init(jax.random.key(0), images, train=False)
        rngs = {"dropout": jax.random.key(1)}
        return [
            block.apply(variables, images, train, rngs=rngs) - images for train in (True, False)
        ]

    training, evaluation = residuals()
    skipped = (training == 0).all(axis=(1, 2, 3))
    assert 0 < skipped.sum() < 16
    # Kept blocks are scaled, so that the mean is that of evaluation.
    np.testing.assert_allclose(training[~skipped], 2 * evaluation[~skipped], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_a_block_has_a_shortcut_where_the_shapes_are_equal():
    x = jnp.zeros((1, 4, 4, 4))
    for features, stride, expected in ((4, 1, 1.0), (4, 2, 0.0), (8, 1, 0.0)):
        block = InvertedResidual(features, 8, 3, stride, **LAYERS)
        variables = block.init(jax.random.key(0), x, train=False)
        outputs = block.apply(jax.tree.map(jnp.zeros_like, variables), x + 1, train=False)
        assert outputs.shape == (1, 4 // stride, 4 // stride, features)
        np.testing.assert_array_equal(outputs, expected)


def test_a_block_without_expansion_has_two_convolutions():
    variables = InvertedResidual(4, 4, 3, 1, **LAYERS).init(
        jax.random.key(0), jnp.zeros((1, 4, 4, 4)), train=False
    )
    assert variables["params"].keys() == {"depthwise", "project"}


def test_squeeze_and_excitation_scales_whole_channels():
    x = np.random.default_rng(0).normal(size=(2, 3, 3, 4)).astype(np.float32)
    outputs, _ = SqueezeExcitation(2, CONV).init_with_output(jax.random.key(0), x)
    scale = outputs / x
    np.testing.assert_allclose(scale, np.broadcast_to(scale[:, :1, :1], scale.shape), rtol=1e-5)
    assert (scale > 0).all() and (scale < 1).all() and np.ptp(scale) > 1e-3
