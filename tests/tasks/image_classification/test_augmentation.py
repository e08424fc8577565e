import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.common.errors import ConfigError
from research.tasks.image_classification.augmentation import (
    Augmentation,
    cutmix,
    mixup,
    random_crop,
    random_flip,
)


@pytest.fixture
def images():
    """Sixty-four images whose pixels are all different, and none zero."""
    return jnp.arange(1, 64 * 6 * 6 * 2 + 1, dtype=jnp.float32).reshape(64, 6, 6, 2)


TARGETS = jnp.eye(64)


def test_a_crop_is_the_image_moved(images):
    cropped = np.asarray(random_crop(jax.random.key(0), images, 2))
    padded = np.pad(images, ((0, 0), (2, 2), (2, 2), (0, 0)))
    moves = set()
    for i in range(64):
        found = [
            (dy, dx)
            for dy in range(5)
            for dx in range(5)
            if np.array_equal(cropped[i], padded[i, dy : dy + 6, dx : dx + 6])
        ]
        assert len(found) == 1
        moves.update(found)
    assert len(moves) > 15  # of 25


def test_half_of_the_images_are_mirrored(images):
    flipped = np.asarray(random_flip(jax.random.key(0), images))
    same = (flipped == np.asarray(images)).all((1, 2, 3))
    mirrored = (flipped == np.asarray(images)[:, :, ::-1]).all((1, 2, 3))
    assert (same ^ mirrored).all()
    assert 20 < mirrored.sum() < 44


def test_mixup_blends_images_and_targets_alike(images):
    mixed, targets = mixup(jax.random.key(3), images, TARGETS, 1.0)
    weight = targets[1, 1]
    assert 0 < weight < 1
    np.testing.assert_allclose(targets.sum(1), 1, rtol=1e-6)
    np.testing.assert_allclose(mixed[1], weight * images[1] + (1 - weight) * images[0], rtol=1e-5)


def test_cutmix_weighs_targets_by_the_area_pasted(images):
    areas = []
    for key in range(20):
        mixed, targets = cutmix(jax.random.key(key), images, TARGETS, 1.0)
        pasted = np.asarray(mixed[1] == images[0]).all(-1)
        kept = np.asarray(mixed[1] == images[1]).all(-1)
        assert (pasted ^ kept).all()
        np.testing.assert_allclose(targets[1, 0], pasted.mean(), atol=1e-6)
        np.testing.assert_allclose(targets[1, 1], kept.mean(), atol=1e-6)
        rows, columns = np.nonzero(pasted)
        if len(rows):  # a box, with no holes
            assert len(rows) == (np.ptp(rows) + 1) * (np.ptp(columns) + 1)
        areas.append(pasted.mean())
    assert len(set(areas)) > 5


def test_with_both_a_batch_gets_one_or_the_other(images):
    both = Augmentation(mixup=1.0, cutmix=1.0)
    kinds = set()
    for key in range(12):
        mixed, _ = both(jax.random.key(key), images, TARGETS)
        pixels = np.asarray(mixed[1])
        known = (pixels == np.asarray(images[0])) | (pixels == np.asarray(images[1]))
        kinds.add("cutmix" if known.all() else "mixup")
    assert kinds == {"cutmix", "mixup"}


def test_nothing_is_done_by_default(images):
    same, targets = Augmentation()(jax.random.key(0), images, TARGETS)
    assert same is images
    assert targets is TARGETS


def test_negative_strength_is_refused():
    with pytest.raises(ConfigError, match="mixup"):
        Augmentation(mixup=-1)
