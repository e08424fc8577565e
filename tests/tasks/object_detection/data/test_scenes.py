import numpy as np
import pytest
from PIL import Image

from research.common.errors import ConfigError
from research.data.compositing import photograph_crop
from research.data.splits import SPLITS
from research.tasks.object_detection.data import DigitScenes

COUNT = 200  # scenes per test


def training_scenes(source, count=COUNT):
    """Yields training images and their backgrounds, uint8 [size, size, 3], and objects."""
    images = source.open("train")
    for seed in range(count):
        image, found = images.load(0, np.random.default_rng(seed))
        ground = photograph_crop(source.scene_size, np.random.default_rng(seed))
        yield np.asarray(image), ground, found


@pytest.fixture(scope="module")
def many_digits():
    return list(training_scenes(DigitScenes()))


@pytest.fixture(scope="module")
def one_digit():
    return list(training_scenes(DigitScenes(num_digits=(1, 1))))


@pytest.fixture(scope="module")
def boxes(many_digits):
    return [found.boxes for _, _, found in many_digits]


def as_bytes(image, found):
    return image.tobytes(), *(part.tobytes() for part in found)


def extent(mask):
    """The bounding box (x_min, y_min, x_max, y_max) of a mask [height, width]."""
    y, x = np.nonzero(mask)
    return x.min(), y.min(), x.max() + 1, y.max() + 1


@pytest.mark.parametrize("split", SPLITS)
def test_scenes_are_a_function_of_split_and_index(split):
    first, second = (DigitScenes().open(split) for _ in range(2))
    distinct = set()
    for index in range(5):
        one = as_bytes(first.image(index), first.annotation(index))
        assert one == as_bytes(second.image(index), second.annotation(index))
        distinct.add(one)
    assert len(distinct) == 5


def test_training_scenes_are_random_and_the_others_fixed():
    train, validation, test = (DigitScenes().open(split) for split in SPLITS)
    ours, same, other = (
        as_bytes(*train.load(0, np.random.default_rng(seed))) for seed in (1, 1, 2)
    )
    assert ours == same and ours[0] != other[0]
    for images in (validation, test):
        fixed = as_bytes(images.image(3), images.annotation(3))
        assert as_bytes(*images.load(3, np.random.default_rng(0))) == fixed
    assert np.mean(np.asarray(validation.image(3)) == np.asarray(test.image(3))) < 0.1


def test_no_digit_is_in_two_splits():
    train, validation, test = (
        {glyph.tobytes() for glyph in DigitScenes().open(split).glyphs} for split in SPLITS
    )
    assert not train & test and not train & validation and not validation & test
    assert len(train) + len(validation) + len(test) == 1797


def test_sizes_of_the_splits():
    source = DigitScenes(num_train_scenes=7, num_test_scenes=3)
    assert [len(source.open(split)) for split in SPLITS] == [7, 3, 3]
    assert source.resolve() == source and source.class_names == tuple("0123456789")


def test_dtypes_and_shapes(many_digits):
    for image, _, found in many_digits:
        assert image.shape == (128, 128, 3) and image.dtype == np.uint8
        assert [part.dtype for part in found] == [np.float32, np.int32, bool]
        assert found.boxes.shape == (len(found.labels), 4) and not found.crowd.any()
    labels = np.concatenate([found.labels for _, _, found in many_digits])
    assert (np.bincount(labels, minlength=10) > len(labels) / 20).all()


def test_all_numbers_and_heights_of_digits_occur(boxes):
    assert {len(one) for one in boxes} == set(range(1, 9))
    heights = np.concatenate([one[:, 3] - one[:, 1] for one in boxes])
    assert set(heights) == set(range(14, 41))


def test_digits_lie_within_the_scene_with_limited_overlap(boxes):
    every = np.concatenate(boxes)
    assert every.min() == 0 and every.max() == 128
    covered = []
    for one in boxes:
        low = np.maximum(one[:, None, :2], one[None, :, :2])
        high = np.minimum(one[:, None, 2:], one[None, :, 2:])
        inter, area = np.maximum(high - low, 0).prod(axis=2), (one[:, 2:] - one[:, :2]).prod(axis=1)
        parts = inter / np.minimum(area[:, None], area)
        covered += parts[np.triu_indices(len(one), 1)].tolist()
    assert 0.14 < max(covered) < 0.15 + 1e-6


def test_boxes_are_tight_around_the_ink(one_digit):
    exact = 0
    for image, ground, found in one_digit:
        ink = np.abs(image.astype(float) - ground).mean(axis=2)
        np.testing.assert_allclose(found.boxes, [extent(ink > 0)], atol=1)
        exact += np.array_equal(found.boxes, [extent(ink > 0.1 * ink.max())])
    assert exact > 0.95 * COUNT  # rarely, ink has the colour of the background


def test_pixels_outside_of_the_boxes_are_background(many_digits):
    for image, ground, found in many_digits:
        changed = (image != ground).any(axis=2)
        for x_min, y_min, x_max, y_max in found.boxes.astype(int):
            assert changed[y_min:y_max, x_min:x_max].any()
            changed[y_min:y_max, x_min:x_max] = False
        assert not changed.any()


def as_small(ink):
    """The ink of a digit at 8 x 8 pixels, with unit norm: float [64]."""
    image = Image.fromarray(ink.astype(np.float32)).crop(extent(ink >= 0.25 * ink.max()))
    small = np.asarray(image.resize((8, 8))).ravel()
    return small / np.linalg.norm(small)


def test_digits_have_contrast_and_agree_with_their_labels(one_digit):
    images, right = DigitScenes().open("train"), 0
    known = np.stack([as_small(glyph) for glyph in images.glyphs])
    for image, ground, found in one_digit:
        x_min, y_min, x_max, y_max = found.boxes[0].astype(int)
        ink = (image.astype(float) - ground)[y_min:y_max, x_min:x_max].mean(axis=2)
        assert np.abs(ink).max() > 70
        # Classified by the nearest glyph.
        right += images.labels[np.argmax(known @ as_small(np.abs(ink)))] == found.labels[0]
    assert right > 0.9 * COUNT


@pytest.mark.parametrize("scene_size", [40, 1000])
def test_scenes_as_small_as_a_digit_or_larger_than_the_photographs(scene_size):
    source = DigitScenes(scene_size=scene_size, digit_height=(4, 40), num_digits=(8, 8))
    for image, _, found in training_scenes(source, count=5):
        assert image.shape == (scene_size, scene_size, 3)
        assert (found.boxes[:, 2:] <= scene_size).all() and len(found.boxes) > 0


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("num_digits", value) for value in ((0, 8), (3, 2), (1,))),
        *(("digit_height", value) for value in ((3, 40), (30, 20), (14, 129))),
        *(("max_overlap", value) for value in (-0.1, 1.1)),
        ("num_train_scenes", 0),
        ("num_test_scenes", 0),
    ],
)
def test_invalid_values_are_refused(key, value):
    with pytest.raises(ConfigError, match=f"config.{key}: invalid value .*: expected "):
        DigitScenes(**{key: value})
