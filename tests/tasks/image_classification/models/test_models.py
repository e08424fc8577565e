"""Properties of all classifiers; a new one is tested by being listed."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.common.errors import ConfigError
from research.tasks.image_classification.models import CNN, MLP, FastResNet, ResNet


@pytest.mark.parametrize(
    "model",
    [MLP(), CNN(), ResNet(stem="cifar", width=8), FastResNet()],
    ids=lambda model: type(model).__name__,
)
def test_logits_and_variables_are_float32_for_any_dtype(model):
    model = model.clone(num_classes=5, dtype=jnp.bfloat16)
    images = jax.ShapeDtypeStruct((2, 16, 16, 3), jnp.bfloat16)
    init = partial(model.init_with_output, train=False)
    with jax.numpy_dtype_promotion("standard"):  # Flax's BatchNorm promotes bfloat16 to float32
        logits, variables = jax.eval_shape(init, jax.random.key(0), images)
    assert logits.shape == (2, 5)
    assert logits.dtype == jnp.float32
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}


def test_an_mlp_has_the_expected_number_of_parameters():
    model = MLP(widths=(100,), num_classes=10)
    params = model.init(jax.random.key(0), jnp.zeros((1, 8, 8, 1)), train=False)["params"]
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    assert count == 64 * 100 + 100 + 100 * 10 + 10


@pytest.mark.slow
def test_dropout_applies_only_in_training():
    model = MLP(widths=(50,), dropout=0.5, num_classes=3)
    images = jnp.ones((1, 4, 4, 1))
    variables = model.init(jax.random.key(0), images, train=False)

    def logits(key, train):
        return model.apply(variables, images, train=train, rngs={"dropout": jax.random.key(key)})

    assert np.array_equal(logits(0, False), logits(1, False))
    assert not np.array_equal(logits(0, True), logits(1, True))


@pytest.mark.parametrize("model", [CNN((4,) * 4), FastResNet((4,) * 4)])
def test_too_many_stages_for_the_image_size_are_an_error(model):
    init = partial(model.clone(num_classes=2).init, train=False)
    with pytest.raises(ConfigError, match="widths: too many stages"):
        jax.eval_shape(init, jax.random.key(0), jnp.zeros((1, 8, 8, 1)))
