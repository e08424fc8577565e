from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from research.tasks.image_classification.models import (
    CNN,
    MLP,
    FastResNet,
    ResNet,
    _halve_overlapping,
)


def parameters(model, shape):
    shapes = jax.eval_shape(
        lambda: model.init(jax.random.key(0), jnp.zeros((1, *shape)), train=False)
    )
    return sum(leaf.size for leaf in jax.tree.leaves(shapes["params"]))


@pytest.mark.parametrize(
    ("model", "shape", "count"),
    [
        # torchvision's resnet18 and resnet50; the CIFAR stem as in kuangliu's pytorch-cifar.
        (ResNet(depth=18, classes=1000), (224, 224, 3), 11_689_512),
        (ResNet(depth=50, classes=1000), (224, 224, 3), 25_557_032),
        (ResNet(depth=18, stem="cifar", classes=10), (32, 32, 3), 11_173_962),
        (MLP(widths=(100,), classes=10), (8, 8, 1), 64 * 100 + 100 + 100 * 10 + 10),
    ],
    ids=["resnet18", "resnet50", "resnet18-cifar", "mlp"],
)
def test_models_have_the_published_number_of_parameters(model, shape, count):
    assert parameters(model, shape) == count


@pytest.mark.parametrize("depth", [18, 50])
def test_a_residual_network_shrinks_thirty_two_times(depth):
    model = ResNet(depth=depth, classes=7)
    images = jnp.zeros((2, 64, 64, 3))
    _, state = jax.eval_shape(
        lambda: model.apply(
            model.init(jax.random.key(0), images, train=False),
            images,
            train=False,
            capture_intermediates=True,
        )
    )
    blocks = [v for k, v in state["intermediates"].items() if "Block" in k or "Bottleneck" in k]
    assert len(blocks) == {18: 8, 50: 16}[depth]
    sizes = {block["__call__"][0].shape[1] for block in blocks}
    assert sizes == {16, 8, 4, 2}


@pytest.mark.parametrize(
    "model", [MLP(), CNN(), ResNet(stem="cifar", width=8), FastResNet()], ids=repr
)
def test_logits_are_float32_in_any_dtype(model):
    model = model.clone(classes=5, dtype=jnp.bfloat16)
    images = jax.ShapeDtypeStruct((2, 16, 16, 3), jnp.bfloat16)
    init = partial(model.init_with_output, train=False)
    logits, variables = jax.eval_shape(init, jax.random.key(0), images)
    assert logits.shape == (2, 5)
    assert logits.dtype == jnp.float32
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}


def test_residual_blocks_begin_as_the_identity():
    model = ResNet(depth=18, stem="cifar", width=8, classes=3)

    @jax.jit  # which leaves out the rest of the network
    def begin():
        variables = model.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)), train=False)
        return [
            block["BatchNorm_1"]["scale"]
            for name, block in variables["params"].items()
            if "Block" in name
        ]

    scales = begin()
    assert len(scales) == 8
    assert all((scale == 0).all() for scale in scales)


def test_dropout_acts_in_training_alone():
    model = MLP(widths=(50,), dropout=0.5, classes=3)
    images = jnp.ones((1, 4, 4, 1))
    variables = model.init(jax.random.key(0), images, train=False)

    def out(key, train):
        return model.apply(variables, images, train=train, rngs={"dropout": jax.random.key(key)})

    assert np.array_equal(out(0, False), out(1, False))
    assert not np.array_equal(out(0, True), out(1, True))


@pytest.mark.parametrize("stem", ["imagenet", "strided", "cifar"])
@pytest.mark.parametrize("depth", [18, 50])
def test_stages_lie_as_far_apart_as_they_say(depth, stem):
    model = ResNet(depth=depth, stem=stem, width=4)
    images = jax.ShapeDtypeStruct((2, 64, 96, 3), jnp.float32)

    def init(images):
        return model.init_with_output(jax.random.key(0), images, train=False, stages=4)

    found, _ = jax.eval_shape(init, images)
    channels = [4, 8, 16, 32] if depth == 18 else [16, 32, 64, 128]
    assert [x.shape for x in found] == [
        (2, 64 // stride, 96 // stride, width)
        for stride, width in zip(model.strides, channels, strict=True)
    ]


def test_a_classifier_looks_at_the_last_of_its_stages():
    """Fewer stages are the first of these, and those that nobody looks at have no parameters."""
    model = ResNet(depth=18, stem="strided", width=4, classes=3)
    images = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype(np.float32)

    @jax.jit
    def everything():
        variables = model.init(jax.random.key(0), images, train=False)
        given = [model.apply(variables, images, train=False, stages=n) for n in (None, 4, 2)]
        return *given, variables["params"]["head"]

    logits, four, two, head = everything()
    expected = four[-1].mean(axis=(1, 2)) @ head["kernel"] + head["bias"]
    np.testing.assert_allclose(logits, expected, rtol=1e-4)
    assert len(four) == 4 and len(two) == 2
    for ours, theirs in zip(two, four[:2], strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)
    count = [
        len(jax.eval_shape(lambda n=n: model.init(jax.random.key(0), images, False, n))["params"])
        for n in (2, 4, None)
    ]
    assert count == sorted(set(count))


@pytest.mark.parametrize(
    ("size", "dtype"),
    [((8, 8), "float32"), ((7, 10), "float32"), ((6, 9), "bfloat16"), ((1, 2), "float32")],
)
def test_overlapping_pooling_is_that_of_flax_to_the_bit(size, dtype):
    x = jax.random.normal(jax.random.key(0), (2, *size, 3), dtype) - 3  # padding is not zero
    padding = [(1, 1), (1, 1)]
    expected = jax.jit(lambda: nn.max_pool(x, (3, 3), (2, 2), padding=padding))()
    found = jax.jit(_halve_overlapping)(x)
    assert found.dtype == x.dtype and np.array_equal(found, expected)
