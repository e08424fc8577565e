import dataclasses

import jax
import numpy as np
import pytest

from research.common.config import from_config_dict
from research.common.errors import ConfigError
from research.task import Task
from research.tasks.image_classification.augmentation import Augmentation
from research.tasks.image_classification.data import Digits
from research.tasks.image_classification.models import CNN
from research.tasks.image_classification.task import ImageClassification


@pytest.fixture
def batch():
    images = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 1)).astype(np.uint8)
    labels = np.arange(6, dtype=np.int32)
    return {"image": images, "label": labels, "mask": np.array([1, 1, 1, 1, 0, 0], np.float32)}


def probabilities(task, params, variables, batch):
    return np.asarray(task.predict(params, variables, batch)["probability"])


def test_the_loss_is_the_cross_entropy_of_the_predictions(batch):
    task = ImageClassification()
    params, variables = task.init(jax.random.key(0))
    metrics, same = task.loss(params, variables, batch, jax.random.key(1), train=False)
    p = probabilities(task, params, variables, batch)
    np.testing.assert_allclose(p.sum(1), 1, rtol=1e-5)
    np.testing.assert_allclose(
        metrics["loss"].total, -np.log(p[range(4), range(4)]).sum(), rtol=1e-5
    )
    assert float(metrics["loss"].count) == 4
    assert float(metrics["accuracy"].total) == (p.argmax(1) == np.arange(6))[:4].sum()
    jax.tree.map(np.testing.assert_array_equal, variables, same)


def test_smoothing_and_augmentation_apply_only_in_training(batch):
    plain = ImageClassification()
    augmented = dataclasses.replace(
        plain, label_smoothing=0.2, augmentation=Augmentation(crop_padding=2)
    )
    params, variables = plain.init(jax.random.key(0))

    def loss(task, train):
        metrics, _ = task.loss(params, variables, batch, jax.random.key(1), train)
        return float(metrics["loss"].total)

    assert loss(plain, False) == loss(augmented, False)
    assert loss(plain, True) != loss(augmented, True)


def test_with_test_time_flip_predictions_are_invariant_to_flips(batch):
    task = ImageClassification(test_time_flip=True)
    params, variables = task.init(jax.random.key(0))
    mirrored = batch | {"image": batch["image"][:, :, ::-1]}
    once, again = (probabilities(task, params, variables, b) for b in (batch, mirrored))
    np.testing.assert_allclose(once, again, rtol=1e-4)
    plain = probabilities(ImageClassification(), params, variables, batch)
    assert np.abs(once - plain).max() > 1e-3


def test_configs_saved_with_former_keys_open():
    saved = {
        "type": "ImageClassification",
        "source": {"type": "TFDS", "name": "cifar10", "image_shape": [32, 32, 3], "classes": 10},
        "flip_in_prediction": True,
    }
    task = from_config_dict(Task, saved)
    assert isinstance(task, ImageClassification)
    assert (task.num_classes, task.test_time_flip) == (10, True)


@pytest.mark.slow
def test_images_are_resized_on_the_device_after_augmentation(monkeypatch):
    """The network sees the input size, in training and in prediction; augmentation the image's."""
    task = ImageClassification(source=Digits(), model=CNN(widths=(4,)), input_size=(16, 24))
    params, variables = task.init(jax.random.key(0))
    assert params["head"]["kernel"].shape == (8 * 12 * 4, 10)
    seen = []
    original = Augmentation.__call__
    monkeypatch.setattr(
        Augmentation,
        "__call__",
        lambda self, key, images, targets: (
            seen.append(images.shape) or original(self, key, images, targets)
        ),
    )
    batch = task.dataset("test").batch(np.arange(4), (0, 0), None)
    totals, _ = task.loss(params, variables, batch, jax.random.key(0), train=True)
    assert np.isfinite(totals["loss"].total) and seen == [(4, 8, 8, 1)]
    found = task.predict(params, variables, batch)["probability"]
    large = jax.image.resize(task.normalize(batch["image"]), (4, 16, 24, 1), "linear")
    logits = task.network.apply({"params": params, **variables}, large, train=False)
    np.testing.assert_allclose(found, jax.nn.softmax(logits), rtol=1e-5)


def test_an_invalid_input_size_is_refused():
    with pytest.raises(ConfigError, match=r"config\.input_size: invalid value \(16,\)"):
        ImageClassification(input_size=(16,))
