import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.tasks.image_classification.models import CNN, MLP, FastResNet, ResNet


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
    images = jnp.asarray(np.random.default_rng(0).normal(size=(2, 16, 16, 3)), jnp.bfloat16)
    logits, variables = model.init_with_output(jax.random.key(0), images, train=False)
    assert logits.shape == (2, 5)
    assert logits.dtype == jnp.float32
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}


def test_residual_blocks_begin_as_the_identity():
    model = ResNet(depth=18, stem="cifar", width=8, classes=3)
    variables = model.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)), train=False)
    scales = [
        block["BatchNorm_1"]["scale"]
        for name, block in variables["params"].items()
        if "Block" in name
    ]
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
