import numpy as np
import pytest
from PIL import Image, ImageChops

from research.tasks.object_detection.visualization import draw_detections, place_labels


def overlap(a, b):
    """The intersection area of two boxes."""
    sides = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    return np.maximum(sides, 0).prod()


def placed(boxes, sizes, canvas=(100, 100)):
    """The boxes of the labels."""
    corners = place_labels(np.array(boxes, float), sizes, np.array(canvas))
    return [
        np.concatenate([corner, corner + size]) for corner, size in zip(corners, sizes, strict=True)
    ]


def pixels(image, colour):
    """The pixels of a colour: [height, width] bool."""
    return (np.asarray(image) == np.array(colour)).all(axis=-1)


def changed(image, other):
    """The bounding box of the differing pixels; None if there are none."""
    return ImageChops.difference(image, other).getbbox()


def test_labels_lie_above_their_boxes_or_else_below():
    (above,), (below,) = (
        placed([(40, 40, 60, 60)], [(15, 5)]),
        placed([(40, 2, 60, 60)], [(15, 5)]),
    )
    np.testing.assert_array_equal(above, (40, 35, 55, 40))
    np.testing.assert_array_equal(below, (40, 60, 55, 65))


def test_the_label_of_a_box_over_the_whole_image_lies_inside():
    (label,) = placed([(0, 0, 100, 100)], [(15, 5)])
    assert overlap(label, np.array([0, 0, 100, 100])) == 15 * 5


def test_labels_avoid_other_boxes_and_each_other():
    boxes = [(40, 40, 60, 60), (38, 30, 58, 39.5), (41, 41, 61, 61), (39, 42, 59, 62)]
    labels = placed(boxes, [(20, 5)] * 4)
    assert not overlap(labels[0], np.array(boxes[1]))
    for number, label in enumerate(labels):
        assert not any(overlap(label, other) for other in labels[:number])


def test_labels_lie_within_the_image():
    for box in ((-5, -5, 3, 3), (97, 97, 105, 105), (95, 0, 100, 100), (0, 0, 0, 0)):
        (label,) = placed([box], [(15, 5)])
        assert (label >= 0).all() and (label <= 100).all()


def test_detections_are_drawn_on_a_copy_of_the_image():
    image = Image.new("RGB", (640, 480), "white")
    box = np.array([[100, 200, 300, 400]], np.float32)
    result = draw_detections(image, box, ["cat"], np.array([0.9]))
    assert result.size == image.size
    assert changed(image, Image.new("RGB", image.size, "white")) is None
    x_min, y_min, x_max, y_max = changed(image, result)
    assert 98 <= x_min <= 100 and 300 <= x_max <= 302 and 400 <= y_max <= 402
    assert 180 <= y_min < 190  # the label
    for corner in ((100, 200), (299, 200), (100, 399), (299, 399)):
        assert sum(result.getpixel(corner)) not in (0, 3 * 255)  # neither the edge nor the image
    inside = (110, 210, 290, 390)
    assert changed(result.crop(inside), image.crop(inside)) is None


def test_lines_on_small_images_are_thin_and_within_the_box():
    image = Image.new("RGB", (128, 128), "white")
    result = draw_detections(
        image, np.array([[50, 60, 90, 100]], np.float32), ["7"], np.array([0.9])
    )
    below_the_label = (0, 62, 128, 128)
    box = changed(image.crop(below_the_label), result.crop(below_the_label))
    assert box == (50, 0, 90, 100 - 62)
    assert changed(result.crop((51, 62, 89, 99)), image.crop((51, 62, 89, 99))) is None


def test_lines_have_an_outline():
    box = np.array([[100, 200, 300, 400]], np.float32)
    on_black = draw_detections(Image.new("RGB", (640, 480)), box, ["cat"], np.array([0.9]))
    same = Image.new("RGB", (640, 480), on_black.getpixel((200, 200)))
    left, _, right, bottom = changed(same, draw_detections(same, box, ["cat"], np.array([0.9])))
    assert left < 102 and right > 298 and bottom > 398


def test_images_without_detections_are_unchanged():
    image = Image.new("RGB", (64, 48), "white")
    result = draw_detections(image, np.zeros((0, 4), np.float32), [], np.zeros(0))
    assert changed(image, result) is None


def test_colors_are_a_function_of_the_class():
    def colour(label, x):
        box = np.array([[x, 300, x + 50, 350]], np.float32)
        image = draw_detections(Image.new("RGB", (640, 480)), box, [label], np.array([0.5]))
        return image.getpixel((x + 25, 300))

    assert colour("cat", 100) == colour("cat", 400)
    assert len({colour(digit, 100) for digit in "0123456789"}) == 10


def test_lines_and_text_scale_with_the_image():
    def measure(scale):
        image = Image.new("RGB", (640 * scale, 480 * scale))
        box = scale * np.array([[100, 200, 300, 400]], np.float32)
        result = draw_detections(image, box, ["cat"], np.array([0.9]))
        colour = result.getpixel((200 * scale, 200 * scale))
        line = pixels(result, colour)[scale * 250 : scale * 350, : 200 * scale]
        return int(line.sum(axis=1).max()), 200 * scale - changed(image, result)[1]

    (line, label), (greater_line, greater_label) = measure(1), measure(4)
    assert line >= 2
    assert greater_line == pytest.approx(4 * line, abs=3)
    assert greater_label == pytest.approx(4 * label, abs=4)


def test_labels_are_legible_on_small_images():
    image = Image.new("RGB", (128, 128), "white")
    result = draw_detections(
        image, np.array([[50, 60, 90, 100]], np.float32), ["7"], np.array([0.9])
    )
    assert 60 - changed(image, result)[1] >= 10  # pixels, the height of a label
    assert np.asarray(result)[:60].max(axis=-1).min() < 60  # dark letters


@pytest.mark.parametrize("box", [(0, 0, 128, 128), (127.9, 127.9, 128, 128), (5, 5, 5, 5)])
def test_boxes_at_the_edge_and_empty_ones_can_be_drawn(box):
    image = Image.new("RGB", (128, 128))
    result = draw_detections(image, np.array([box], np.float32), ["a class"], np.array([0.9]))
    assert changed(image, result)
