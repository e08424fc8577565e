import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.common.errors import ConfigError
from research.hardware.target import Target
from research.tasks.image_classification.augmentation import (
    Augmentation,
    cutmix,
    mixup,
    random_crop,
    random_flip,
)
from tests.tpu import tpu_operations


@pytest.fixture
def images():
    """64 images whose pixels are all distinct and nonzero."""
    return jnp.arange(1, 64 * 6 * 6 * 2 + 1, dtype=jnp.float32).reshape(64, 6, 6, 2)


TARGETS = jnp.eye(64)


def test_a_random_crop_is_a_shifted_image(images):
    cropped = np.asarray(random_crop(jax.random.key(0), images, 2))
    padded = np.pad(images, ((0, 0), (2, 2), (2, 2), (0, 0)))
    shifts = set()
    for i in range(64):
        matches = [
            (dy, dx)
            for dy in range(5)
            for dx in range(5)
            if np.array_equal(cropped[i], padded[i, dy : dy + 6, dx : dx + 6])
        ]
        assert len(matches) == 1
        shifts.update(matches)
    assert len(shifts) > 15  # of 25


@pytest.mark.parametrize("shape", [(64, 6, 6, 2), (5, 7, 4, 1)])
@pytest.mark.parametrize("padding", [1, 4])
def test_a_random_crop_is_the_same_on_every_platform(shape, padding, monkeypatch):
    images = jax.random.normal(jax.random.key(1), shape)
    cropped = random_crop(jax.random.key(0), images, padding)
    monkeypatch.setattr(
        "research.tasks.image_classification.augmentation.target", lambda: Target("tpu", 1)
    )
    assert np.array_equal(random_crop(jax.random.key(0), images, padding), cropped)


@pytest.mark.slow
def test_a_random_crop_on_a_tpu_has_no_loop_over_the_examples(images):
    def crop(seeds, images):
        return random_crop(jax.random.key(seeds[0]), images, 2)

    operations = tpu_operations(crop, jnp.zeros(1, jnp.uint32), images)
    assert operations["fusion"] and not operations["while"] and not operations["gather"]


def test_half_of_the_images_are_flipped(images):
    augmented = np.asarray(random_flip(jax.random.key(0), images))
    same = (augmented == np.asarray(images)).all((1, 2, 3))
    flipped = (augmented == np.asarray(images)[:, :, ::-1]).all((1, 2, 3))
    assert (same ^ flipped).all()
    assert 20 < flipped.sum() < 44


def test_mixup_interpolates_images_and_targets_with_the_same_weight(images):
    mixed, targets = mixup(jax.random.key(3), images, TARGETS, 1.0)
    weight = targets[1, 1]
    assert 0 < weight < 1
    np.testing.assert_allclose(targets.sum(1), 1, rtol=1e-6)
    np.testing.assert_allclose(mixed[1], weight * images[1] + (1 - weight) * images[0], rtol=1e-5)


def test_cutmix_weights_targets_by_the_pasted_area(images):
    areas = []
    for key in range(20):
        mixed, targets = cutmix(jax.random.key(key), images, TARGETS, 1.0)
        pasted = np.asarray(mixed[1] == images[0]).all(-1)
        kept = np.asarray(mixed[1] == images[1]).all(-1)
        assert (pasted ^ kept).all()
        np.testing.assert_allclose(targets[1, 0], pasted.mean(), atol=1e-6)
        np.testing.assert_allclose(targets[1, 1], kept.mean(), atol=1e-6)
        rows, columns = np.nonzero(pasted)
        if len(rows):  # a full rectangle
            assert len(rows) == (np.ptp(rows) + 1) * (np.ptp(columns) + 1)
        areas.append(pasted.mean())
    assert len(set(areas)) > 5


def test_with_mixup_and_cutmix_each_batch_gets_one_of_them(images):
    both = Augmentation(mixup=1.0, cutmix=1.0)
    kinds = set()
    for key in range(12):
        mixed, _ = both(jax.random.key(key), images, TARGETS)
        pixels = np.asarray(mixed[1])
        known = (pixels == np.asarray(images[0])) | (pixels == np.asarray(images[1]))
        kinds.add("cutmix" if known.all() else "mixup")
    assert kinds == {"cutmix", "mixup"}


def test_by_default_a_batch_is_unchanged(images):
    same, targets = Augmentation()(jax.random.key(0), images, TARGETS)
    assert same is images
    assert targets is TARGETS


def test_a_negative_value_is_an_error():
    with pytest.raises(ConfigError, match="mixup: invalid value -1"):
        Augmentation(mixup=-1)
