from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from PIL import Image

from research.common.errors import ConfigError
from research.tasks.object_detection.augmentation import Augmentation
from research.tasks.object_detection.boxes import NO_OBJECTS, Annotation

# Colours by label. Their channels are 0 or 255, so that a threshold halfway locates edges; the
# background is black, and the grey padding lies below the threshold.
COLOURS = np.array([*product((0, 1), repeat=3)][1:])
WHITE = (255, 255, 255)


def drawn(rng, labels):
    """A black image with a rectangle in the colour of each label, and its objects."""
    width, height = rng.integers(40, 121, size=2).tolist()
    array = np.zeros((height, width, 3), np.uint8)
    boxes, room = np.zeros((len(labels), 4), np.float32), width // max(len(labels), 1)
    for i, label in enumerate(labels):
        # Gaps between the rectangles, so that interpolation never mixes their colours.
        w, h = rng.integers(12, (room - 4, height + 1))
        x, y = rng.integers((i * room, 0), (i * room + room - 4 - w, height - h + 1))
        array[y : y + h, x : x + w] = 255 * COLOURS[label]
        boxes[i] = x, y, x + w, y + h
    crowd = rng.random(len(labels)) < 0.2
    return Image.fromarray(array), Annotation(boxes, np.array(labels, np.int32), crowd)


def extent(image, label):
    """The bounding box of the pixels of a label's colour; None without such pixels.

    A pixel belongs to a rectangle that covers at least half of it.
    """
    y, x = np.nonzero(((np.asarray(image) >= 128) == COLOURS[label]).all(axis=2))
    return np.array([x.min(), y.min(), x.max() + 1, y.max() + 1]) if len(x) else None


@pytest.mark.parametrize("mosaic", [0.0, 1.0])
@pytest.mark.parametrize(("horizontal", "vertical"), [*product((False, True), repeat=2)])
@pytest.mark.parametrize("image_size", [(64, 64), (48, 96), (80, 56)])
def test_boxes_agree_with_the_pixels(mosaic, horizontal, vertical, image_size):
    for seed in range(40):
        rng = np.random.default_rng(seed)
        scale = float(np.exp(rng.uniform(-0.7, 0.7)))
        augmentation = Augmentation((scale, scale), horizontal, vertical, mosaic_probability=mosaic)
        compare(augmentation, image_size, rng)


def compare(augmentation, image_size, rng):
    """Compares the boxes of augmented images with their pixels."""
    unused, drawn_objects = rng.permutation(7).tolist(), {}

    def load(index):
        labels = [unused.pop() for _ in range(rng.integers(3)) if unused]
        image, given = drawn(rng, labels)
        fitting = min(image_size[0] / image.height, image_size[1] / image.width)
        size = np.round(np.multiply(image.size, fitting * augmentation.scale[0]))
        areas = ((given.boxes[:, 2:] - given.boxes[:, :2]) * size / image.size).prod(axis=1)
        drawn_objects.update(zip(labels, zip(areas, given.crowd, strict=True), strict=True))
        return image, given

    image, found = augmentation(load, 0, 9, image_size, rng)
    assert image.size == image_size[::-1]
    assert [part.dtype for part in found] == [np.float32, np.int32, bool]
    assert len(set(found.labels)) == len(found.labels)
    assert set(found.labels) <= set(drawn_objects)
    for label, (area, was_crowd) in drawn_objects.items():
        visible_box, position = extent(image, label), np.flatnonzero(found.labels == label)
        if not len(position):
            # Objects narrower than a pixel are removed.
            assert visible_box is None or (visible_box[2:] - visible_box[:2]).min() <= 1
            continue
        assert visible_box is not None
        (box,) = found.boxes[position]
        np.testing.assert_allclose(box, visible_box, atol=0.75)  # pixels are whole
        visible = (box[2:] - box[:2]).prod() / area
        assert found.crowd[position] == (was_crowd or visible < 0.3)


def results(augmentation, image, count=200):
    """Augments an image repeatedly: float64 [count, height, width, 3]."""
    rng, image_size = np.random.default_rng(0), image.size[::-1]

    def load(index):
        return image, NO_OBJECTS

    images = [augmentation(load, 0, 1, image_size, rng)[0] for _ in range(count)]
    return np.stack(images).astype(float)


def test_the_default_leaves_images_unchanged():
    image, given = drawn(np.random.default_rng(3), [2, 5])
    rng = np.random.default_rng(0)
    same, found = Augmentation()(lambda index: (image, given), 0, 1, image.size[::-1], rng)
    assert np.array_equal(same, image)
    assert all(np.array_equal(*parts) for parts in zip(found, given, strict=True))


def test_equal_seeds_give_equal_results_and_inputs_are_not_modified():
    everything = Augmentation(
        (0.5, 2.0),
        horizontal_flip=True,
        vertical_flip=True,
        color_jitter=0.5,
        mosaic_probability=0.5,
    )
    loaded = [drawn(np.random.default_rng(i), [i, i + 3]) for i in range(4)]
    before = [(image.tobytes(), given.boxes.copy()) for image, given in loaded]
    made = []
    for seed in (*range(10), *range(10)):
        rng = np.random.default_rng(seed)
        image, found = everything(loaded.__getitem__, 0, 4, (48, 64), rng)
        made.append((image.tobytes(), *(part.tobytes() for part in found)))
    assert made[:10] == made[10:] and len(set(made)) == 10
    for (image, given), (pixels, boxes) in zip(loaded, before, strict=True):
        assert image.tobytes() == pixels and np.array_equal(given.boxes, boxes)


@pytest.mark.parametrize(("key", "axis"), [("horizontal_flip", 1), ("vertical_flip", 0)])
def test_half_of_the_images_are_flipped(key, axis):
    image, _ = drawn(np.random.default_rng(3), [2, 5])
    found = results(Augmentation(**{key: True}), image)
    same = (found == np.asarray(image)).all(axis=(1, 2, 3))
    turned = (found == np.flip(image, axis)).all(axis=(1, 2, 3))
    assert (same ^ turned).all() and 80 < turned.sum() < 120


def test_scales_are_log_uniform_and_offsets_uniform():
    found = results(Augmentation(scale=(0.25, 1.0)), Image.new("RGB", (64, 64), WHITE))
    white = (found == 255).all(axis=3)
    width, height = white.any(axis=1).sum(axis=1), white.any(axis=2).sum(axis=1)
    assert (width == height).all() and (white.sum(axis=(1, 2)) == width * height).all()
    assert (found[~white] == 114).all()
    assert width.min() in (16, 17) and width.max() in (63, 64) and 28 < np.median(width) < 36
    for axis in (1, 2):
        first = white.any(axis=axis).argmax(axis=1)[width < 60]
        offset = first / (64 - width[width < 60])
        assert offset.min() == 0 and offset.max() == 1 and 0.45 < offset.mean() < 0.55


def test_larger_images_are_cropped_uniformly():
    image = Image.linear_gradient("L").resize((64, 64)).convert("RGB")
    rows = results(Augmentation(scale=(2.0, 2.0)), image)[:, :, 0, 0]
    assert rows[:, 0].min() < 3 and rows[:, -1].max() > 252 and 55 < rows[:, 0].mean() < 73
    assert (np.abs(np.ptp(rows, axis=1) - 127) < 5).all()


def test_a_mosaic_has_four_images_around_a_point_near_the_centre():
    loaded_indices, points, rng = [], [], np.random.default_rng(0)

    def load(index):
        loaded_indices.append(index)
        return Image.new("L", (48, 40), len(loaded_indices)).convert("RGB"), NO_OBJECTS

    for _ in range(800):
        loaded_indices.clear()
        image, _ = Augmentation(mosaic_probability=0.5)(load, 7, 3, (40, 48), rng)
        assert (
            loaded_indices[0] == 7
            and len(loaded_indices) in (1, 4)
            and set(loaded_indices[1:]) <= {0, 1, 2}
        )
        number = np.asarray(image)[..., 0]
        x, y = (number[0] == 1).sum(), (number[:, 0] == 1).sum()
        column, row = np.arange(48) >= x, np.arange(40) >= y
        assert np.array_equal(number, 1 + column + 2 * row[:, None])
        if len(loaded_indices) == 4:
            points.append((x, y))
    assert 350 < len(points) < 450
    x, y = np.transpose(points)
    assert (x.min(), x.max(), y.min(), y.max()) == (12, 36, 10, 30)


def test_color_jitter_does_not_change_the_geometry():
    geometry = Augmentation((0.5, 2.0), horizontal_flip=True, mosaic_probability=0.5)
    loaded = [drawn(np.random.default_rng(i), [i, i + 3]) for i in range(4)]
    for seed in range(20):
        (image, found), (coloured, as_found) = (
            augmentation(loaded.__getitem__, 0, 4, (48, 64), np.random.default_rng(seed))
            for augmentation in (geometry, replace(geometry, color_jitter=0.5))
        )
        assert all(np.array_equal(*parts) for parts in zip(found, as_found, strict=True))
        before, after = (np.asarray(one).reshape(-1, 3) for one in (image, coloured))
        assert (before != after).any()
        # Pixels of one colour keep a common colour.
        pairs = np.unique(np.concatenate([before, after], axis=1), axis=0)
        assert len(pairs) == len(np.unique(before, axis=0))


def test_brightness_contrast_and_saturation_are_scaled():
    greys = np.array([80, 100, 120], np.uint8).repeat(16)
    image = Image.fromarray(np.broadcast_to(greys, (48, 48))).convert("RGB")
    dark, middle, light = results(Augmentation(color_jitter=0.4), image)[:, 0, ::20, 0].T
    for factor in (middle / 100, (light - dark) / middle / 0.4):
        assert 0.58 < factor.min() < 0.63 and 1.37 < factor.max() < 1.42
        assert 0.95 < factor.mean() < 1.05
    brown = results(Augmentation(color_jitter=0.4), Image.new("RGB", (8, 8), (120, 100, 80)))[
        :, 0, 0
    ]
    # In an image of one colour, contrast changes the saturation too.
    factor = (brown[:, 0] - brown[:, 2]) / brown[:, 1] / 0.4
    assert 0.3 < factor.min() < 0.5 and 1.6 < factor.max() < 2.0


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("scale", value) for value in ((0.0, 1.0), (2.0, 1.0), (1.0,), (0.5, 1.0, 2.0))),
        *((key, value) for key in ("color_jitter", "mosaic_probability") for value in (-0.1, 1.1)),
    ],
)
def test_invalid_values_are_refused(key, value):
    with pytest.raises(ConfigError, match=f"config.{key}: invalid value .*: expected "):
        Augmentation(**{key: value})
