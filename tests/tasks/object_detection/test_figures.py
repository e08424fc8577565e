import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.patches import Rectangle
from PIL import Image

from research.tasks.object_detection.average_precision import (
    RECALL,
    AveragePrecision,
    ClassPrecision,
)
from research.tasks.object_detection.figures import (
    Mark,
    Scene,
    downscaled,
    precision_recall,
    scene_grid,
)
from tests.reporting.drawing import drawn, extents, texts

FOUND, MISSED, FALSE = "#3fb950", "#cf222e", "#f5a30a"


def mark(kind, box, label="cat 0.90"):
    return Mark(kind, np.array(box, np.float32), label)


def scene(size, *marks, heading="image 0"):
    image = Image.new("RGB", size, "grey")
    return Scene(heading, downscaled(image), size, marks)


def grid(*scenes):
    """The figure, and its axes below the legend."""
    figure = drawn(scene_grid(scenes, "caption"))
    return figure, figure.axes[1:]


def texts_of(axes):
    return [text.get_text() for text in axes.texts]


def outlines(axes):
    return [patch for patch in axes.findobj(Rectangle) if not patch.get_fill()]


def on_image(patch, image, size):
    """Converts a rectangle to pixels of the image that it is drawn on."""
    left, right, bottom, top = image.get_extent()
    x, y = (np.array([patch.get_x(), patch.get_y()]) - (left, top)) / (right - left, bottom - top)
    width, height = patch.get_width() / (right - left), patch.get_height() / (bottom - top)
    return np.array([x, y, x + width, y + height]) * np.tile(size, 2)


def measured(*precisions, objects=None):
    """The average precision of classes 0, 1, ... with the given curves."""
    classes = {
        str(i): ClassPrecision(0.1, float(curve.mean()), objects[i] if objects else 5, curve)
        for i, curve in enumerate(precisions)
    }
    return AveragePrecision(0.1, float(np.mean(precisions)), 0.1, classes)


@pytest.mark.parametrize("size", [(128, 128), (640, 480), (480, 640), (4000, 3000), (3, 2)])
def test_boxes_lie_over_their_pixels(size):
    box = np.array([0.1, 0.2, 0.6, 0.9]) * np.tile(size, 2)
    _, (axes,) = grid(scene(size, mark("true positive", box)))
    (image,), (patch,) = axes.images, outlines(axes)
    np.testing.assert_allclose(on_image(patch, image, size), box, rtol=1e-4)
    left, right, bottom, top = image.get_extent()
    np.testing.assert_allclose((right - left) / (bottom - top), size[0] / size[1])
    assert max(right - left, bottom - top) == pytest.approx(3.3, abs=0.1)  # inches


def test_images_keep_their_aspect_ratio():
    figure, (axes,) = grid(scene((640, 480)))
    (image,) = axes.images
    extent = image.get_window_extent()
    assert extent.width / extent.height == pytest.approx(640 / 480)
    assert extent.width / figure.dpi == pytest.approx(3.3, abs=0.1)
    assert image.get_array().shape[0] / image.get_array().shape[1] == pytest.approx(0.75, abs=0.01)


def test_rows_have_three_images_with_gaps():
    _, rows = grid(*[scene((100, 100), heading=f"image {i}") for i in range(4)])
    assert [len(axes.images) for axes in rows] == [3, 1]
    (_, first), (second, third), (last, _) = (image.get_extent()[:2] for image in rows[0].images)
    assert first < second and third < last
    assert [text for axes in rows for text in texts_of(axes)] == [f"image {i}" for i in range(4)]


def test_kinds_of_boxes_have_distinct_styles_and_a_legend():
    marks = [
        mark(kind, (10 + 30 * i, 40, 30 + 30 * i, 60), kind)
        for i, kind in enumerate(("true positive", "false negative", "false positive"))
    ]
    figure, (axes,) = grid(scene((128, 128), *marks))
    styles = [(to_hex(patch.get_ec()), patch.get_linestyle()) for patch in outlines(axes)]
    assert set(styles) == {(FOUND, "-"), (MISSED, "--"), (FALSE, "-")}
    (legend, *_) = figure.axes
    assert texts_of(legend) == ["true positive", "false positive", "false negative", "caption"]
    shown = [(to_hex(patch.get_ec()), patch.get_linestyle()) for patch in outlines(legend)]
    assert shown == styles  # false negatives are drawn last
    fills = {
        to_hex(p.get_fc()) for p in axes.findobj(Rectangle) if p.get_fill() and p.get_width() < 1
    }
    assert {FOUND, MISSED, FALSE} <= fills  # the labels have the colour of their boxes


def test_labels_are_legible():
    """They lie within their background and the image, and do not overlap."""
    marks = [
        mark("true positive", (x, y, x + 20, y + 16), "potted plant 0.98")
        for x, y in ((0, 0), (2, 110), (100, 2), (104, 108), (50, 60), (55, 66))
    ]
    figure, (axes,) = grid(scene((128, 128), *marks))
    boxes = extents(figure, [axes])[1:]
    labels = [p for p in axes.patches if p.get_fill()]
    assert len(boxes) == len(labels) == 6
    frame = axes.images[0].get_window_extent()
    for number, (box, label) in enumerate(zip(boxes, labels, strict=True)):
        around = label.get_window_extent()
        assert around.x0 <= box.x0 and box.x1 <= around.x1
        assert frame.x0 - 1 <= around.x0 and around.x1 <= frame.x1 + 1
        assert frame.y0 - 1 <= around.y0 and around.y1 <= frame.y1 + 1
        assert not any(
            min(box.x1, other.x1) > max(box.x0, other.x0)
            and min(box.y1, other.y1) > max(box.y0, other.y0)
            for other in boxes[:number]
        )


def test_boxes_without_labels_and_images_without_boxes():
    _, (axes,) = grid(scene((64, 64), mark("ground truth", (1, 1, 9, 9), "")), scene((64, 64)))
    assert len(axes.images) == 2
    assert len(outlines(axes)) == 1
    assert texts_of(axes) == ["image 0", "image 0"]


def test_long_class_names_are_shortened_and_not_parsed_as_formulas():
    label = "$a_b$" + "x" * 50
    figure, _ = grid(scene((64, 64), mark("true positive", (1, 1, 9, 9), label)))
    assert "$a_b$" + "x" * 12 + "…" in texts(figure)


def test_large_images_are_downscaled():
    large = Image.new("RGB", (4000, 2000))
    assert 500 <= downscaled(large).width <= 600
    assert downscaled(large).width == pytest.approx(2 * downscaled(large).height, abs=2)
    assert large.size == (4000, 2000)
    assert downscaled(Image.new("RGB", (40, 20))).size == (40, 20)


def test_curves_of_classes_and_of_their_mean():
    one, two = np.ones(101), np.where(RECALL <= 0.5, 0.8, 0.0)
    figure = drawn(precision_recall(measured(one, two)))
    first, second, mean = figure.axes[0].lines
    np.testing.assert_allclose(first.get_xydata(), np.stack([RECALL, one], axis=1))
    np.testing.assert_allclose(second.get_xydata()[[0, -2, -1]], [[0, 0.8], [0.5, 0.8], [0.51, 0]])
    np.testing.assert_allclose(mean.get_ydata()[[0, -1]], [0.9, 0.5])
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["1.00  0 (5 objects)", "0.40  1 (5 objects)", "0.70  mean of the 2 classes"]


def test_a_single_class_has_no_mean_curve():
    figure = drawn(precision_recall(measured(np.zeros(101))))
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["0.00  0 (5 objects)"]


def test_of_many_classes_those_with_the_most_objects_are_drawn():
    figure = drawn(precision_recall(measured(*[np.ones(101)] * 12, objects=[1, *range(3, 14)])))
    labels = [text.get_text().split()[1] for text in figure.legends[0].get_texts()]
    assert labels == [*map(str, range(2, 12)), "mean"]
    colours = [line.get_color() for line in figure.axes[0].lines]
    assert len(set(colours)) == 11
