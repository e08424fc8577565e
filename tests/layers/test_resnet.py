import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.layers.resnet import ResNet


@pytest.mark.parametrize(
    ("model", "image_size", "count"),
    [
        # torchvision's resnet18 to resnet101; the CIFAR stem as in kuangliu's pytorch-cifar.
        (ResNet(depth=18, num_classes=1000), 224, 11_689_512),
        (ResNet(depth=34, num_classes=1000), 224, 21_797_672),
        (ResNet(depth=50, num_classes=1000), 224, 25_557_032),
        (ResNet(depth=101, num_classes=1000), 224, 44_549_160),
        (ResNet(depth=18, stem="cifar", num_classes=10), 32, 11_173_962),
    ],
    ids=["resnet18", "resnet34", "resnet50", "resnet101", "resnet18-cifar"],
)
def test_models_have_the_published_number_of_parameters(model, image_size, count):
    images = jnp.zeros((1, image_size, image_size, 3))
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), images, train=False))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes["params"])) == count


@pytest.mark.parametrize("depth", [18, 50])
def test_the_last_feature_map_has_stride_32(depth):
    model = ResNet(depth=depth, num_classes=7)
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


def test_residual_blocks_start_as_the_identity():
    model = ResNet(depth=18, stem="cifar", width=8, num_classes=3)

    @jax.jit  # computes the returned parameters alone
    def last_scales():
        variables = model.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)), train=False)
        return [
            block["BatchNorm_1"]["scale"]
            for name, block in variables["params"].items()
            if "Block" in name
        ]

    scales = last_scales()
    assert len(scales) == 8
    assert all((scale == 0).all() for scale in scales)


@pytest.mark.parametrize("stem", ["imagenet", "strided", "cifar"])
@pytest.mark.parametrize("depth", [18, 50])
def test_feature_maps_have_the_declared_strides(depth, stem):
    model = ResNet(depth=depth, stem=stem, width=4)
    images = jax.ShapeDtypeStruct((2, 64, 96, 3), jnp.float32)

    def init(images):
        return model.init_with_output(jax.random.key(0), images, train=False, stages=4)

    feature_maps, _ = jax.eval_shape(init, images)
    channels = [4, 8, 16, 32] if depth == 18 else [16, 32, 64, 128]
    assert [x.shape for x in feature_maps] == [
        (2, 64 // stride, 96 // stride, width)
        for stride, width in zip(model.strides, channels, strict=True)
    ]


@pytest.mark.slow
def test_the_logits_are_a_linear_function_of_the_last_feature_map():
    model = ResNet(depth=18, stem="strided", width=4, num_classes=3)
    images = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype(np.float32)

    @jax.jit
    def compute():
        variables = model.init(jax.random.key(0), images, train=False)
        outputs = [model.apply(variables, images, train=False, stages=n) for n in (None, 4, 2)]
        return *outputs, variables["params"]["head"]

    logits, four, two, head = compute()
    expected = four[-1].mean(axis=(1, 2)) @ head["kernel"] + head["bias"]
    np.testing.assert_allclose(logits, expected, rtol=1e-4)
    assert len(four) == 4 and len(two) == 2
    for few, all_maps in zip(two, four[:2], strict=True):
        np.testing.assert_allclose(few, all_maps, rtol=1e-4, atol=1e-6)


def test_unused_stages_have_no_parameters():
    model = ResNet(depth=18, stem="strided", width=4, num_classes=3)
    images = jnp.zeros((1, 32, 32, 3))

    def count(stages):
        init = jax.eval_shape(lambda: model.init(jax.random.key(0), images, False, stages))
        return len(init["params"])

    assert count(2) < count(4) < count(None)


@pytest.mark.slow
def test_padding_changes_the_position_of_strided_convolutions_alone():
    images = np.random.default_rng(0).normal(size=(1, 32, 32, 3)).astype(np.float32)

    @jax.jit
    def feature_maps():
        same, torch = (ResNet(stem="cifar", width=4, padding=p) for p in ("same", "torch"))
        variables = same.init(jax.random.key(0), images, False, 2)
        # The last scale of a block starts at zero.
        variables = jax.tree.map(lambda x: jnp.where(x == 0, 0.1, x), variables)
        return [model.apply(variables, images, False, 2) for model in (same, torch)]

    (first_same, second_same), (first_torch, second_torch) = feature_maps()
    np.testing.assert_array_equal(first_same, first_torch)
    assert second_same.shape == second_torch.shape
    assert np.abs(second_same - second_torch).max() > 1e-3
