import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax import export

from research.hardware.target import Target
from research.layers.convolution import depthwise_conv, max_pool_3x3, padding_of
from tests.tpu import tpu_operations


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


def test_max_pool_3x3_and_its_gradient_are_the_same_on_every_platform(monkeypatch):
    x = jax.random.normal(jax.random.key(0), (2, 7, 10, 3))

    def pooled_and_gradient(platform):
        monkeypatch.setattr("research.layers.convolution.target", lambda: Target(platform, 1))
        pooled, gradient = jax.jit(lambda x: jax.vjp(max_pool_3x3, x))(x)
        return pooled, *gradient(pooled)

    expected = pooled_and_gradient("cpu")
    for platform in ("tpu", "any"):
        for a, b in zip(pooled_and_gradient(platform), expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6)


@pytest.mark.slow
def test_max_pool_3x3_on_a_tpu_is_that_of_flax():
    x = jax.ShapeDtypeStruct((8, 32, 32, 64), jnp.bfloat16)
    operations = tpu_operations(jax.grad(lambda x: (max_pool_3x3(x) ** 2).sum()), x)
    assert operations["select-and-scatter"] == 1


@pytest.mark.parametrize("platform", ["cpu", "tpu", "any"])
@pytest.mark.parametrize(
    ("size", "kernel_size", "stride", "padding"),
    [
        (8, 3, 1, "same"),
        (8, 3, 2, "same"),
        (9, 5, 2, "same"),
        (8, 5, 2, "torch"),
        (3, 5, 2, "torch"),
    ],
)
def test_depthwise_convolution_equals_that_of_xla(
    size, kernel_size, stride, padding, platform, monkeypatch
):
    monkeypatch.setattr("research.layers.convolution.target", lambda: Target(platform, 1))
    padding = padding_of(kernel_size, padding)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, size, size + 1, 6)).astype(np.float32)

    def layer(**options):
        shape = (kernel_size, kernel_size), (stride, stride)
        return nn.Conv(6, *shape, padding, feature_group_count=6, use_bias=False, **options)

    params = layer().init(jax.random.key(0), x)

    def outputs_and_gradients(module):
        outputs, gradient = jax.vjp(module.apply, params, x)
        return outputs, gradient(outputs)

    expected = jax.jit(lambda: outputs_and_gradients(layer()))()
    computed = jax.jit(lambda: outputs_and_gradients(layer(conv_general_dilated=depthwise_conv)))()
    for a, b in zip(jax.tree.leaves(computed), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_depthwise_convolution_accumulates_bfloat16_in_float32():
    x = jnp.ones((1, 5, 5, 2), jnp.bfloat16)
    kernel = jnp.full((5, 5, 1, 2), 0.1, jnp.bfloat16)
    total = depthwise_conv(x, kernel, (1, 1), [(0, 0), (0, 0)])
    assert total.dtype == jnp.bfloat16 and total.shape == (1, 1, 1, 2)
    np.testing.assert_allclose(total.astype(jnp.float32), 25 * float(kernel[0, 0, 0, 0]), rtol=4e-3)


def test_torch_padding_is_the_same_on_both_sides():
    assert padding_of(5, "torch") == [(2, 2), (2, 2)]
    assert padding_of(5, "same") == "SAME"


def test_a_program_for_any_platform_has_the_choices_of_each(monkeypatch):
    monkeypatch.setattr("research.layers.convolution.target", lambda: Target("any", 1))
    x, kernel = jnp.zeros((2, 8, 8, 6)), jnp.zeros((3, 3, 1, 6))
    conv = jax.jit(
        lambda x, kernel: depthwise_conv(
            x,
            kernel,
            (1, 1),
            "SAME",
            feature_group_count=6,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
    )
    for platform, count in {"cpu": 0, "cuda": 1, "tpu": 1}.items():
        module = export.export(conv, platforms=(platform,))(x, kernel).mlir_module()
        assert module.count("stablehlo.convolution") == count, platform
