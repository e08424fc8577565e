import numpy as np

from research.tasks.image_classification.figures import feature_grid, filter_grid


def test_feature_maps_share_one_scale():
    """A weak feature map has low contrast next to a strong one."""
    features = np.stack([np.full((2, 2), 0.1), np.eye(2)], axis=-1)
    weak, strong = (axes.images[0] for axes in feature_grid(features).axes[:2])
    np.testing.assert_allclose(weak.norm(weak.get_array()), 0.1)
    np.testing.assert_allclose(strong.norm(strong.get_array()), np.eye(2))


def test_grids_have_one_tile_for_each_filter_or_feature():
    def drawn(figure):
        return sum(bool(axes.images) for axes in figure.axes)

    assert drawn(filter_grid(np.random.default_rng(0).normal(size=(3, 3, 3, 10)))) == 10
    assert drawn(feature_grid(np.zeros((5, 5, 20)))) == 20
