import jax
import jax.numpy as jnp
import pytest

from research.layers.efficientnet import EfficientNetLite
from tests.layers.backbones import check_feature_maps, check_stages


# The numbers of tf_efficientnet_lite0 to lite4 in timm.
@pytest.mark.parametrize(
    ("variant", "count"),
    [
        (0, 4_652_008),
        pytest.param(1, 5_416_680, marks=pytest.mark.slow),
        pytest.param(2, 6_092_072, marks=pytest.mark.slow),
        pytest.param(3, 8_197_096, marks=pytest.mark.slow),
        pytest.param(4, 13_006_568, marks=pytest.mark.slow),
    ],
)
def test_models_have_the_published_number_of_parameters(variant, count):
    model = EfficientNetLite(variant, num_classes=1000)
    images = jnp.zeros((1, 64, 64, 3))
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), images, train=False))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes["params"])) == count


@pytest.mark.parametrize("variant", [0, pytest.param(4, marks=pytest.mark.slow)])
def test_feature_maps_have_the_declared_strides(variant):
    channels = {0: (24, 40, 112, 320), 4: (32, 56, 160, 448)}[variant]
    check_feature_maps(EfficientNetLite(variant), channels)


@pytest.mark.slow
def test_unused_stages_have_no_parameters():
    check_stages(EfficientNetLite(num_classes=3))
