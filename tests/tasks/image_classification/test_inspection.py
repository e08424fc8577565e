import jax
import numpy as np
import pytest

from research.common.errors import UserError
from research.tasks.image_classification.figures import feature_grid, filter_grid
from research.tasks.image_classification.inspection import feature_maps, first_filters
from research.tasks.image_classification.models import CNN, MLP, ResNet
from research.tasks.image_classification.task import ImageClassification


def test_features_are_what_the_filters_make_of_the_image():
    task = ImageClassification(model=CNN(widths=(4, 6)))
    params, variables = task.init(jax.random.key(0))
    image = np.random.default_rng(0).integers(0, 256, (8, 8, 1)).astype(np.uint8)
    filters = first_filters(params)
    assert filters.shape == (3, 3, 1, 4)
    maps = feature_maps(task, params, variables, image)
    assert list(maps) == ["Conv_0", "Conv_1", "Conv_2", "Conv_3"]
    assert maps["Conv_3"].shape == (4, 4, 6)
    pixels = np.asarray(task.normalize(image))
    by_hand = np.einsum("hwc,hwcf->f", pixels[1:4, 2:5], filters)
    np.testing.assert_allclose(maps["Conv_0"][2, 3], by_hand, rtol=1e-4, atol=1e-5)


def test_layers_come_in_the_order_they_act():
    task = ImageClassification(model=ResNet(depth=18, stem="cifar", width=4))
    maps = feature_maps(task, *task.init(jax.random.key(0)), np.zeros((8, 8, 1), np.uint8))
    assert list(maps)[:4] == [
        "Conv_0",
        *(f"_BasicBlock_0/Conv_{i}" for i in (0, 1)),
        "_BasicBlock_1/Conv_0",
    ]
    assert [m.shape[0] for m in maps.values()] == sorted([m.shape[0] for m in maps.values()])[::-1]


def test_a_network_without_filters_says_so():
    task = ImageClassification(model=MLP())
    with pytest.raises(UserError, match="no convolution"):
        first_filters(task.init(jax.random.key(0))[0])


def test_feature_maps_share_one_scale():
    """A faint map must look faint beside a strong one."""
    features = np.stack([np.full((2, 2), 0.1), np.eye(2)], axis=-1)
    faint, strong = (axes.images[0] for axes in feature_grid(features).axes[:2])
    np.testing.assert_allclose(faint.norm(faint.get_array()), 0.1)
    np.testing.assert_allclose(strong.norm(strong.get_array()), np.eye(2))


def test_grids_have_a_tile_for_each():
    drawn = lambda figure: sum(bool(axes.images) for axes in figure.axes)  # noqa: E731
    assert drawn(filter_grid(np.random.default_rng(0).normal(size=(3, 3, 3, 10)))) == 10
    assert drawn(feature_grid(np.zeros((5, 5, 20)))) == 20
