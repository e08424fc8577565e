import base64
import io

import numpy as np
import pytest
from PIL import Image

from research.tasks.image_classification.figures import (
    class_scores,
    confusions,
    feature_grid,
    few_shot_curves,
    filter_grid,
    image_grid,
)
from tests.reporting.markup import external, find, rows, texts, unnamed


def pixels(html):
    """The pictures as arrays."""
    sources = [one.get("src").partition(",")[2] for one in find(html, "img")]
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(one)))) for one in sources]


def test_precision_and_recall_of_each_class():
    label, predicted = np.array([0, 0, 0, 0, 1, 1]), np.array([0, 0, 0, 1, 1, 0])
    figure = class_scores(label, predicted, ("cat", "<dog>", "never"))
    assert rows(figure.content)[1:] == [
        ["cat", "75.0 %", "75.0 %", "75.0 %", "4"],
        ["<dog>", "50.0 %", "50.0 %", "50.0 %", "2"],
        ["never", "0.0 %", "0.0 %", "0.0 %", "0"],
    ]


def test_the_confusion_matrix_counts_true_and_predicted_classes():
    figure = confusions(np.array([0, 0, 1]), np.array([0, 1, 1]), ("a", "b"))
    assert rows(figure.content)[1:] == [["a", "1", "1"], ["b", "", "1"]]
    assert figure.caption.startswith("1 of 3 examples wrong.")


@pytest.mark.parametrize("channels", [1, 3])
def test_images_have_their_prediction_and_their_class_where_it_is_wrong(channels):
    images = np.arange(2 * 8 * 8 * channels, dtype=np.uint8).reshape(2, 8, 8, channels)
    html = image_grid("Hardest", images, ["a", "<b>"], ["a", "c"], np.array([0.9, 0.5])).content
    assert texts(html, "figcaption") == ["a 90%", "✗ c 50%, is <b>"]
    assert [one.get("class") for one in find(html, "span")] == ["good", "bad"]
    np.testing.assert_array_equal(pixels(html)[1], images[1].squeeze())
    assert not unnamed(html) and not external(html)


def test_large_images_are_scaled_down():
    html = image_grid("a", np.zeros((1, 400, 800, 3), np.uint8), ["a"], ["a"], np.ones(1)).content
    assert pixels(html)[0].shape == (80, 160, 3)


def test_feature_maps_share_one_scale():
    """A weak feature map has low contrast next to a strong one."""
    features = np.stack([np.full((2, 2), 0.1), np.eye(2)], axis=-1)
    weak, strong = pixels(feature_grid(features).content)
    assert weak.tolist() == [[25, 25], [25, 25]]
    assert strong.tolist() == [[255, 0], [0, 255]]


def test_grids_have_one_tile_for_each_filter_or_feature():
    filters = np.random.default_rng(0).normal(size=(3, 3, 3, 10))
    assert [tile.shape for tile in pixels(filter_grid(filters).content)] == [(3, 3, 3)] * 10
    assert len(pixels(feature_grid(np.zeros((5, 5, 20))).content)) == 20


def test_few_shot_accuracy_has_a_curve_with_a_band():
    accuracy = {"pretrained": np.array([[0.5, 0.7], [0.8, 0.8]]), "scratch": np.zeros((2, 2))}
    figure = few_shot_curves((1, 5), accuracy)
    curves = [one for one in find(figure.content, "g") if one.get("data-name")]
    assert [one.get("data-y") for one in curves] == ["60 80", "0 0"]
    assert len(find(figure.content, "polygon", class_="band")) == 2
    assert "2 draws" in figure.caption and not unnamed(figure.content)
