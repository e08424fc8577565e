import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.common.errors import ConfigError
from research.layers.convolution import conv_and_norm
from research.layers.resnet import ResNet
from tests.tpu import tpu_operations

X = jnp.arange(1.0, 7)[:, None, None, None] * (
    2 + jax.random.normal(jax.random.key(0), (6, 4, 5, 3))
)


def training_step(group_size, x):
    """Outputs, gradients and running averages, with parameters that are not trivial."""
    norm = conv_and_norm(jnp.float32, True, group_size)[1]()
    variables = norm.init(jax.random.key(0), x)
    params = {"scale": jnp.array([1.0, 2.0, -1.0]), "bias": jnp.array([0.0, 3.0, 1.0])}

    def apply(params, x):
        return norm.apply(variables | {"params": params}, x, mutable=["batch_stats"])

    y, gradient, updated = jax.vjp(apply, params, x, has_aux=True)
    return y, gradient(jnp.cos(y)), updated["batch_stats"]


def assert_near(computed, expected):
    for a, b in zip(jax.tree.leaves(computed), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_each_group_is_normalised_alone_and_the_running_averages_are_over_all():
    y, (params, x), running = training_step(2, X)
    parts = [training_step(0, X[i : i + 2]) for i in (0, 2, 4)]
    assert_near(y, jnp.concatenate([part[0] for part in parts]))
    assert_near(x, jnp.concatenate([part[1][1] for part in parts]))
    assert_near(params, jax.tree.map(lambda *g: sum(g), *(part[1][0] for part in parts)))
    assert_near(running, jax.tree.map(lambda *r: sum(r) / 3, *(part[2] for part in parts)))
    assert np.abs(y - training_step(0, X)[0]).max() > 0.1


@pytest.mark.slow
def test_a_group_of_the_whole_batch_is_flax_batch_normalisation():
    assert_near(training_step(6, X), training_step(0, X))


def test_a_group_size_that_does_not_divide_the_batch_is_refused():
    with pytest.raises(ConfigError, match="invalid size 4: expected a divisor of 6 examples"):
        training_step(4, X)


@pytest.mark.slow
def test_parameters_and_inference_do_not_depend_on_the_groups():
    images = jax.random.normal(jax.random.key(0), (3, 32, 32, 3))
    outputs, names = [], []
    for group_size in (0, 2):
        model = ResNet(18, "cifar", width=4, num_classes=2, norm_group_size=group_size)
        variables = jax.jit(model.init, static_argnums=2)(jax.random.key(0), images, False)
        names.append(jax.tree.structure(variables))
        outputs.append(jax.jit(model.apply, static_argnums=2)(variables, images, False))
    assert names[0] == names[1] and np.array_equal(*outputs)


@pytest.mark.slow
def test_groups_within_a_device_spare_the_statistics_their_communication():
    """One all-reduce remains, of the gradient and the running averages."""

    def step(x, group_size):
        norm = conv_and_norm(jnp.float32, True, group_size)[1]

        def loss(kernels):
            y = x
            updates = []
            for kernel in kernels:
                y = jnp.einsum("bhwc,cd->bhwd", y, kernel)
                variables = norm().init(jax.random.key(0), y)
                y, updated = norm().apply(variables, y, mutable=["batch_stats"])
                updates.append(updated)
            return (y**2).sum(), updates

        kernels = jax.random.normal(jax.random.key(0), (4, 8, 8))
        return jax.grad(loss, has_aux=True)(kernels)

    x = jax.ShapeDtypeStruct((16, 8, 8, 8), jnp.float32)
    whole, groups = (
        tpu_operations(lambda x, size=size: step(x, size), x, chips=4) for size in (0, 4)
    )
    assert groups["all-reduce"] == 1 and whole["all-reduce"] > 8
