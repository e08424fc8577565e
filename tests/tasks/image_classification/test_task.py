import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.data.dataset import ArrayDataset
from research.tasks.image_classification.augmentation import Augmentation
from research.tasks.image_classification.scorer import ClassificationScorer
from research.tasks.image_classification.task import ImageClassification


@pytest.fixture
def batch():
    images = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 1)).astype(np.uint8)
    labels = np.arange(6, dtype=np.int32)
    return {"image": images, "label": labels, "mask": np.array([1, 1, 1, 1, 0, 0], np.float32)}


def probabilities(task, params, variables, batch):
    return np.asarray(task.predict(params, variables, batch)["probability"])


def test_the_loss_is_the_cross_entropy_of_what_is_predicted(batch):
    task = ImageClassification()
    params, variables = task.init(jax.random.key(0))
    totals, same = task.loss(params, variables, batch, jax.random.key(1), train=False)
    p = probabilities(task, params, variables, batch)
    np.testing.assert_allclose(p.sum(1), 1, rtol=1e-5)
    np.testing.assert_allclose(
        totals["loss"].total, -np.log(p[range(4), range(4)]).sum(), rtol=1e-5
    )
    assert totals["loss"].count == 4
    assert totals["accuracy"].total == (p.argmax(1) == np.arange(6))[:4].sum()
    jax.tree.map(np.testing.assert_array_equal, variables, same)


def test_smoothing_and_augmentation_act_in_training_alone(batch):
    plain = ImageClassification()
    rich = dataclasses.replace(
        plain, label_smoothing=0.2, augmentation=Augmentation(crop_padding=2)
    )
    params, variables = plain.init(jax.random.key(0))
    loss = lambda task, train: float(  # noqa: E731
        task.loss(params, variables, batch, jax.random.key(1), train)[0]["loss"].total
    )
    assert loss(plain, False) == loss(rich, False)
    assert loss(plain, True) != loss(rich, True)


def test_flipped_predictions_do_not_know_left_from_right(batch):
    task = ImageClassification(flip_in_prediction=True)
    params, variables = task.init(jax.random.key(0))
    mirrored = batch | {"image": batch["image"][:, :, ::-1]}
    once, again = (probabilities(task, params, variables, b) for b in (batch, mirrored))
    np.testing.assert_allclose(once, again, rtol=1e-4)
    plain = probabilities(ImageClassification(), params, variables, batch)
    assert np.abs(once - plain).max() > 1e-3


def test_a_file_is_read_as_the_test_images_are(tmp_path):
    from PIL import Image

    digits = ImageClassification().dataset("test")
    image = digits.arrays["image"][0]
    Image.fromarray(image[..., 0]).save(tmp_path / "digit.png")
    read = ImageClassification().read(tmp_path / "digit.png").example(0, np.random.default_rng(0))
    assert np.array_equal(read["image"], image)
    spec = ImageClassification().batch_spec(1, None)["image"]
    assert (1, *read["image"].shape) == spec.shape


def test_a_prediction_in_words():
    p = np.zeros(10, np.float32)
    p[[3, 5, 8]] = 0.7, 0.2, 0.1
    row = ImageClassification().describe([{"probability": p}])
    assert row["class"] == "3"
    assert row["probability"] == pytest.approx(0.7)
    assert row["next"] == "5 0.200, 8 0.100"


def seen(scorer, label, probability):
    half = len(label) // 2
    for part in (slice(0, half), slice(half, None)):
        targets = {"index": np.arange(len(label))[part], "label": label[part]}
        scorer.update(targets, {"probability": probability[part]})
    return scorer


def test_scores_against_a_count_by_hand():
    rng = np.random.default_rng(0)
    label, p = rng.integers(0, 25, 300), rng.dirichlet(np.ones(25), 300)
    result = seen(ClassificationScorer(tuple(map(str, range(25)))), label, p).result(None)
    rank = (p > p[np.arange(300), label][:, None]).sum(1)
    assert result == {
        "accuracy": pytest.approx((rank == 0).mean()),
        "top5_accuracy": pytest.approx((rank < 5).mean()),
    }


def test_the_wrong_ones_come_first_the_surest_errors_before_all():
    label = np.array([0, 0, 1, 1])
    p = np.array([[0.9, 0.1], [0.2, 0.8], [0.55, 0.45], [0.4, 0.6]])
    scorer = seen(ClassificationScorer(("a", "b")), label, p)
    assert scorer.worst(4).tolist() == [1, 2, 3, 0]
    images = jnp.zeros((4, 5, 5, 3), jnp.uint8)
    figures = scorer.figures(ArrayDataset(image=np.asarray(images), label=label))
    titles = list(figures)
    assert titles[0] == "Confusion matrix"
    assert titles[1] == "The 4 hardest of 4 examples, the 2 wrong ones first"
    shown = [axes.get_title() for axes in figures[titles[1]].axes[:4]]
    assert shown == ["b 80%\nis a", "a 55%\nis b", "b 60%", "a 90%"]
