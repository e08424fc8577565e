import jax
import jax.numpy as jnp
import pytest

from research.layers.mobilenet import MobileNetV3
from tests.layers.backbones import check_feature_maps, check_stages


@pytest.mark.parametrize(
    ("size", "count"),
    [("small", 2_542_856), pytest.param("large", 5_483_032, marks=pytest.mark.slow)],
)
def test_models_have_torchvisions_number_of_parameters(size, count):
    model = MobileNetV3(size, num_classes=1000)
    images = jnp.zeros((1, 64, 64, 3))
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), images, train=False))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes["params"])) == count


@pytest.mark.parametrize("size", ["small", pytest.param("large", marks=pytest.mark.slow)])
def test_feature_maps_have_the_declared_strides(size):
    channels = {"small": (16, 24, 48, 96), "large": (24, 40, 112, 160)}[size]
    check_feature_maps(MobileNetV3(size), channels)


@pytest.mark.slow
def test_unused_stages_have_no_parameters():
    check_stages(MobileNetV3(num_classes=3))
