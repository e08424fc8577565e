import numpy as np
import pytest
from PIL import Image

from research.tasks.object_detection.boxes import NO_OBJECTS, Annotation
from research.tasks.object_detection.transforms import GREY, canvas, letterbox, paste

WHITE = (255, 255, 255)


def annotation(*boxes):
    """Objects with labels 0, 1, 2, ..."""
    labels = np.arange(len(boxes), dtype=np.int32)
    return Annotation(np.array(boxes, np.float32), labels, np.zeros(len(boxes), bool))


def pasted(boxes, size, corner, region):
    """Pastes a white image of 20 x 20 pixels onto a canvas of 60 x 40 pixels.

    Returns:
      The white pixels [40, 60] bool, and the objects.
    """
    below, image = canvas((40, 60)), Image.new("RGB", (20, 20), WHITE)
    placed = paste(below, image, annotation(*boxes), size, corner, region)
    array = np.asarray(below)
    assert set(map(tuple, array.reshape(-1, 3).tolist())) <= {WHITE, GREY}
    return (array == 255).all(axis=2), placed


def covered(x_min, y_min, x_max, y_max):
    """The pixels of a box: [40, 60] bool."""
    mask = np.zeros((40, 60), bool)
    mask[y_min:y_max, x_min:x_max] = True
    return mask


@pytest.mark.parametrize(
    ("size", "image_size", "placed_size"),
    [
        ((40, 20), (40, 40), (40, 20)),
        ((20, 40), (10, 10), (5, 10)),
        ((30, 20), (64, 96), (96, 64)),
        ((33, 47), (64, 32), (32, 46)),
        ((47, 33), (32, 64), (46, 32)),
        ((500, 2), (32, 64), (64, 1)),  # at least one pixel
    ],
)
def test_letterbox_contains_the_whole_image_and_returns_its_scale(size, image_size, placed_size):
    width, height = size
    boxes = [(0, 0, width, height), (width / 4, 0, width, height / 2)]
    image, given = Image.new("RGB", size, WHITE), annotation(*boxes)
    below, placed, scale = letterbox(image, given, image_size)
    assert below.size == image_size[::-1]
    expected = np.full((*image_size, 3), GREY, np.uint8)
    expected[: placed_size[1], : placed_size[0]] = 255
    assert np.array_equal(below, expected)
    assert placed.boxes[0].tolist() == [0, 0, *placed_size]
    assert [part.dtype for part in placed] == [np.float32, np.int32, bool]
    assert scale.dtype == np.float32
    original = placed.boxes / np.tile(scale, 2)
    np.testing.assert_allclose(original, given.boxes[: len(original)], rtol=1e-5)


def test_letterbox_of_an_image_without_objects():
    _, placed, _ = letterbox(Image.new("RGB", (9, 7)), NO_OBJECTS, (32, 32))
    assert placed.boxes.shape == (0, 4) and len(placed.labels) == len(placed.crowd) == 0


def test_boxes_are_pasted_with_their_image():
    white, placed = pasted([(0, 0, 20, 20), (5, 10, 15, 18)], (30, 10), (7, 3), (0, 0, 60, 40))
    assert np.array_equal(white, covered(7, 3, 37, 13))
    assert placed.boxes.tolist() == [[7, 3, 37, 13], [14.5, 8, 29.5, 12]]


def test_images_and_boxes_are_clipped_to_the_region():
    region = (10, 5, 30, 25)
    white, placed = pasted([(0, 0, 20, 20), (0, 0, 8, 20)], (40, 40), (-4, -2), region)
    assert np.array_equal(white, covered(*region))
    # The second is 16 wide and 40 high unclipped, 2 by 20 clipped.
    assert placed.boxes.tolist() == [list(region), [10, 5, 12, 25]]
    assert placed.crowd.tolist() == [True, True]  # a quarter of the first


@pytest.mark.parametrize("corner", [(60, 0), (0, 45), (-30, 5), (5, -20)])
def test_images_outside_of_the_region_are_invisible(corner):
    white, placed = pasted([(0, 0, 20, 20)], (20, 20), corner, (0, 0, 60, 40))
    assert not white.any() and len(placed.boxes) == len(placed.labels) == len(placed.crowd) == 0


@pytest.mark.parametrize(
    ("x", "left", "crowd"), [(0, 60, False), (-42, 18, False), (-43, 17, True), (-59, 1, True)]
)
def test_mostly_truncated_objects_become_crowds(x, left, crowd):
    _, placed = pasted([(0, 0, 20, 10)], (60, 20), (x, 0), (0, 0, 60, 40))
    assert placed.boxes.tolist() == [[0, 0, left, 10]]
    assert placed.crowd.tolist() == [crowd]


def test_labels_and_crowds_follow_their_boxes():
    given = annotation((0, 0, 2, 20), (4, 0, 12, 20), (10, 0, 20, 20))
    given = given._replace(crowd=np.array([False, True, False]))
    image = Image.new("RGB", (20, 20))
    placed = paste(canvas((40, 60)), image, given, (20, 20), (-4, 0), (0, 0, 60, 40))
    assert placed.labels.tolist() == [1, 2] and placed.crowd.tolist() == [True, False]


def test_objects_thinner_than_a_pixel_are_removed():
    boxes = [(0, 0, 20, 1.9), (0, 0, 20, 2), (0, 0, 1.9, 20), (0, 0, 2, 20)]
    _, placed = pasted(boxes, (10, 10), (0, 0), (0, 0, 60, 40))
    assert placed.labels.tolist() == [1, 3]
