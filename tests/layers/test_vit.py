import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.common.errors import ConfigError
from research.layers.vit import ViT

TINY = ViT(patch_size=4, features=8, num_layers=2, num_heads=2, feedforward_dim=16, num_classes=3)


def test_vit_s_16_has_the_published_number_of_parameters():
    model, images = ViT(num_classes=1000), jnp.zeros((1, 224, 224, 3))
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), images, train=False))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes["params"])) == 22_050_664


@pytest.mark.slow
def test_without_positions_the_order_of_the_patches_does_not_matter():
    images = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype(np.float32)
    swapped = np.concatenate([images[:, 4:], images[:, :4]], axis=1)

    @jax.jit
    def compute():
        variables = TINY.init(jax.random.key(0), images, train=False)
        params = variables["params"]
        params = params | {"positions": jnp.zeros_like(params["positions"])}
        logits = [TINY.apply({"params": params}, x, train=False) for x in (images, swapped)]
        return logits, TINY.apply(variables, swapped, train=False)

    (first, second), with_positions = compute()
    np.testing.assert_allclose(first, second, atol=1e-5)
    assert np.abs(with_positions - first).max() > 1e-4
    assert first.shape == (2, 3) and first.dtype == jnp.float32


def test_patches_that_do_not_tile_the_images_are_an_error():
    with pytest.raises(ConfigError, match=r"patch_size: invalid value 4: .* image size, 8x10"):
        jax.eval_shape(lambda: TINY.init(jax.random.key(0), jnp.zeros((1, 8, 10, 3)), train=False))
