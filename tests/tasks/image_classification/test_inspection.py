import jax
import numpy as np
import pytest

from research.common.errors import UserError
from research.tasks.image_classification.inspection import feature_maps, first_layer_filters
from research.tasks.image_classification.models import CNN, MLP, EfficientNetLite, ResNet, ViT
from research.tasks.image_classification.task import ImageClassification


@pytest.mark.slow
def test_feature_maps_are_the_convolution_outputs():
    task = ImageClassification(model=CNN(widths=(4, 6)))
    params, variables = task.init(jax.random.key(0))
    image = np.random.default_rng(0).integers(0, 256, (8, 8, 1)).astype(np.uint8)
    filters = first_layer_filters(task, params, variables)
    assert filters.shape == (3, 3, 1, 4)
    maps = feature_maps(task, params, variables, image)
    assert list(maps) == ["Conv_0", "Conv_1", "Conv_2", "Conv_3"]
    assert maps["Conv_3"].shape == (4, 4, 6)
    pixels = np.asarray(task.normalize(image))
    expected = np.einsum("hwc,hwcf->f", pixels[1:4, 2:5], filters)
    np.testing.assert_allclose(maps["Conv_0"][2, 3], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_feature_maps_are_in_the_order_of_execution():
    task = ImageClassification(model=ResNet(depth=18, stem="cifar", width=4))
    trained = task.init(jax.random.key(0))
    maps = feature_maps(task, *trained, np.zeros((8, 8, 1), np.uint8))
    assert list(maps)[:4] == [
        "Conv_0",
        *(f"_BasicBlock_0/Conv_{i}" for i in (0, 1)),
        "_BasicBlock_1/Conv_0",
    ]
    assert first_layer_filters(task, *trained).shape == (3, 3, 1, 4)
    assert [m.shape[0] for m in maps.values()] == sorted([m.shape[0] for m in maps.values()])[::-1]


def test_a_network_without_convolutions_is_an_error():
    task = ImageClassification(model=MLP())
    trained = task.init(jax.random.key(0))
    assert feature_maps(task, *trained, np.zeros((8, 8, 1), np.uint8)) == {}
    with pytest.raises(UserError, match="no convolution"):
        first_layer_filters(task, *trained)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (ViT(patch_size=4, features=8, num_layers=1, num_heads=2, feedforward_dim=8), (4, 4, 1, 8)),
        (EfficientNetLite(variant=0), (3, 3, 1, 32)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_the_filters_are_those_of_the_first_convolution_of_any_network(model, shape):
    task = ImageClassification(model=model)
    assert first_layer_filters(task, *task.init(jax.random.key(0))).shape == shape
