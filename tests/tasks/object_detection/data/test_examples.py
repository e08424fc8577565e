import numpy as np
import pytest
from PIL import Image

from research.common.errors import UserError
from research.tasks.object_detection.augmentation import Augmentation
from research.tasks.object_detection.boxes import NO_OBJECTS, Annotation
from research.tasks.object_detection.data import AnnotatedImages, DetectionExamples
from research.tasks.object_detection.data.annotated_images import AnnotatedSubset
from research.tasks.object_detection.task import ObjectDetection

SIZES = ((100, 50), (30, 60), (33, 47), (64, 64))
EMPTY, DAMAGED = 4, 5


class Pictures(AnnotatedImages):
    """Images of SIZES, number i with i + 1 objects; one without objects; one that is damaged."""

    def __len__(self):
        return 6

    def image(self, index):
        if index == DAMAGED:
            raise UserError("damaged.png: cannot be read as an image")
        return Image.new("RGB", SIZES[index % 4], (10 * index, 0, 0))

    def annotation(self, index):
        if index == EMPTY:
            return NO_OBJECTS
        width, height = SIZES[index % 4]
        parts = np.arange(1, index + 2, dtype=np.float32) / (index + 1)
        zeros = np.zeros(index + 1, np.float32)
        boxes = np.stack([zeros, zeros, width * parts, height * parts], axis=1)
        return Annotation(boxes, np.arange(index + 1, dtype=np.int32), parts < 0.3)


class Synthetic(Pictures):
    """Images whose brightness is random."""

    def load(self, index, rng=None):
        grey = int(rng.integers(256)) if rng else 0
        return Image.new("RGB", SIZES[index], (grey,) * 3), self.annotation(index)


EVERYTHING = Augmentation(
    (0.5, 2.0), horizontal_flip=True, vertical_flip=True, color_jitter=0.5, mosaic_probability=0.5
)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.mark.parametrize("augmentation", [None, Augmentation(), EVERYTHING])
def test_examples_agree_with_the_batch_spec(augmentation):
    task = ObjectDetection(image_size=(64, 96), max_objects=3)
    examples = DetectionExamples(Pictures(), (64, 96), 3, augmentation)
    assert len(examples) == 6
    spec = task.batch_spec(6, None)
    batch = examples.batch(np.arange(6), (0,), None)
    assert batch.pop("mask").tolist() == [1, 1, 1, 1, 1, 0]
    assert {name: (array.shape, array.dtype) for name, array in batch.items()} == {
        name: (one.shape, one.dtype) for name, one in spec.items()
    }
    padding = batch["labels"] < 0
    assert padding.any() and not batch["boxes"][padding].any() and not batch["crowd"][padding].any()


def test_letterboxing_shows_the_whole_image_and_records_the_scale(rng):
    examples = DetectionExamples(Pictures(), (64, 96), 8)
    for index, (width, height) in enumerate(SIZES):
        one, given = examples.example(index, rng), Pictures().annotation(index)
        count = len(given.labels)
        assert one["size"].tolist() == [width, height]
        np.testing.assert_allclose(one["boxes"][:count] / np.tile(one["scale"], 2), given.boxes)
        assert one["labels"].tolist() == [*range(count), *[-1] * (8 - count)]
        assert one["crowd"][:count].tolist() == given.crowd.tolist()
        x, y = np.round(one["scale"] * (width, height)).astype(int)
        assert (x == 96 or y == 64) and abs(x / y - width / height) < 0.02
        grey = (one["image"] == 114).all(axis=2)
        assert not grey[:y, :x].any() and grey[y:].all() and grey[:, x:].all()


def test_an_image_without_objects_is_an_example(rng):
    for augmentation in (None, Augmentation(mosaic_probability=0.0)):
        one = DetectionExamples(Pictures(), (64, 96), 2, augmentation).example(EMPTY, rng)
        assert one["labels"].tolist() == [-1, -1]
        assert not one["boxes"].any() and not one["crowd"].any()


def test_the_largest_objects_are_kept_in_order_and_crowds_dropped_first(rng):
    images = Pictures()
    boxes = [(0, 0, 5, 5), (5, 5, 15, 15), (0, 0, 9, 2), (10, 10, 30, 30), (0, 0, 30, 30)]
    given = Annotation(np.array(boxes, np.float32), np.arange(5, dtype=np.int32), np.eye(5)[3] > 0)
    images.annotation = lambda index: given
    for augmentation in (None, Augmentation()):
        one = DetectionExamples(images, (64, 64), 3, augmentation).example(3, rng)
        assert one["boxes"].tolist() == [list(boxes[i]) for i in (0, 1, 4)]
        assert one["labels"].tolist() == [0, 1, 4]
        assert not one["crowd"].any()


@pytest.mark.parametrize("augmentation", [None, EVERYTHING])
def test_damaged_images_are_skipped_and_counted(augmentation, rng):
    examples = DetectionExamples(Pictures(), (64, 64), 2, augmentation)
    assert examples.example(DAMAGED, rng) is None
    assert examples.unusable == {DAMAGED: "damaged.png: cannot be read as an image"}


def test_damaged_images_of_a_mosaic_are_replaced_by_the_first_one(rng):
    examples = DetectionExamples(Pictures(), (64, 64), 9, Augmentation(mosaic_probability=1.0))
    examples.images.image = lambda index: (
        Pictures().image(DAMAGED) if index != 3 else Image.new("RGB", SIZES[3], (30, 0, 0))
    )
    found = [examples.example(3, rng) for _ in range(40)]
    assert all((one["image"] == (30, 0, 0)).all() for one in found)
    assert all(set(one["labels"]) <= {-1, 0, 1, 2, 3} for one in found)
    assert set(examples.unusable) == {0, 1, 2, 4, 5}
    assert examples.example(0, rng) is None


def test_augmented_examples_are_a_function_of_the_seed():
    examples = DetectionExamples(Pictures(), (64, 64), 9, EVERYTHING)
    batches = [examples.batch(np.arange(6), seed, None) for seed in ((1, 0), (1, 0), (1, 1))]
    first, again, other = (np.concatenate([b.ravel() for b in batch.values()]) for batch in batches)
    assert np.array_equal(first, again) and not np.array_equal(first, other)
    assert all(np.array_equal(batch["scale"], np.ones((6, 2))) for batch in batches)


def test_a_subset_selects_images_and_passes_the_generator_on():
    subset, parent = AnnotatedSubset(Synthetic(), [3, 1]), Synthetic()
    assert len(subset) == 2
    assert [subset.image(i).getpixel((0, 0)) for i in range(2)] == [(30, 0, 0), (10, 0, 0)]
    assert [len(subset.annotation(i).labels) for i in range(2)] == [4, 2]
    for seed in range(3):
        ours, theirs = (
            images.load(index, np.random.default_rng(seed))
            for images, index in ((subset, 0), (parent, 3))
        )
        assert np.array_equal(ours[0], theirs[0]) and np.array_equal(ours[1].boxes, theirs[1].boxes)
