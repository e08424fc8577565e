"""The task, from training to prediction."""

import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from research.common.config import from_config_dict, to_config_dict
from research.common.errors import ConfigError
from research.evaluate import evaluate_run
from research.tasks.object_detection.boxes import Annotation
from research.tasks.object_detection.data import (
    COCO,
    AnnotatedImages,
    DetectionExamples,
)
from research.tasks.object_detection.models import Detector
from research.tasks.object_detection.task import ObjectDetection
from research.training.clock import CompilationCounter
from research.training.experiment import Experiment
from research.training.input import input_pipeline
from tests.tasks.object_detection.overfitting import SCENES, TASK
from tests.training.states import saved_state


@pytest.fixture
def state(run):
    """A copy of the state, which a training step may donate."""
    return saved_state(run.workdir, run.program.experiment)


class Counted(AnnotatedImages):
    """Images of several sizes with given numbers of small square objects of all classes."""

    def __init__(self, counts):
        self.counts = counts

    def __len__(self):
        return len(self.counts)

    def image(self, index):
        size = ((64, 64), (200, 100), (30, 40), (50, 170))[index % 4]
        noise = np.random.default_rng(index).integers(256, size=(*size[::-1], 3))
        return Image.fromarray(noise.astype(np.uint8))

    def annotation(self, index):
        count, size = self.counts[index], np.array(self.image(index).size)
        rng = np.random.default_rng(index)
        corner = rng.uniform(0, 0.8, (count, 2)) * size
        boxes = np.concatenate([corner, corner + 0.2 * size.min()], axis=1).astype(np.float32)
        labels = rng.integers(10, size=count).astype(np.int32)
        return Annotation(boxes, labels, np.zeros(count, bool))


def batches(run, images, training=False, epochs=1):
    examples = DetectionExamples(images, TASK.image_size, TASK.max_objects)
    pipeline = input_pipeline(run.program, examples, training=training)
    return list(pipeline.batches(0, epochs * pipeline.sampler.batches_per_epoch))


def evaluated(run, batch):
    """The totals of a batch as {name: (sum, count)}."""
    totals, _, _ = run.program.evaluate_step(run.state, batch)
    return {name: (float(total.total), float(total.count)) for name, total in totals.items()}


@pytest.mark.slow
def test_a_run_learns_and_is_evaluated(overfitted):
    results = evaluate_run(overfitted, "test")
    assert results["examples"] == SCENES
    assert results["ap"] > 0.8 and results["ap50"] > 0.95 and results["ap75"] > 0.8
    labels = [TASK.source.open("test").annotation(i).labels for i in range(SCENES)]
    of_classes = {f"ap/{label}" for label in np.concatenate(labels)}
    losses = {"loss", "class_loss", "box_loss"}
    assert set(results) == {"ap", "ap50", "ap75", "examples"} | losses | of_classes
    assert results["loss"] == pytest.approx(results["class_loss"] + 2 * results["box_loss"])
    saved = json.loads((overfitted.workdir / "evaluation_test.json").read_text())
    assert saved["metrics"] == results
    titles = [figure["title"] for figure in saved["figures"]]
    assert titles[:2] == ["Precision, recall and F1", "Classes"] and len(titles) == 5


@pytest.mark.slow
def test_the_number_of_objects_does_not_cause_compilation(run, state):
    """Two epochs of images with 0 to 130 objects, of which 100 are training targets."""
    counts = (0, 1, 50, 100, 130, 0, 2, 99, 0, 7, 1, 0)
    given = batches(run, Counted(counts), training=True, epochs=2)
    with CompilationCounter() as compilations:
        losses = []
        for batch in given:
            state, loss = run.program.train_step(state, batch)
            losses.append(jax.device_get(loss))
    assert len(losses) == 4 and np.isfinite(losses).all()
    assert compilations.count == 0


@pytest.mark.slow
def test_a_batch_without_objects_trains(run, state):
    (batch,) = batches(run, Counted((0,) * SCENES))
    before = jax.device_get(state.params)
    state, loss = run.program.train_step(state, batch)
    assert 0 < float(loss) < np.inf
    after = jax.device_get(state.params)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(after))
    changed = jax.tree.map(lambda a, b: not np.array_equal(a, b), before, after)
    assert any(jax.tree.leaves(changed))


@pytest.mark.slow
def test_the_loss_of_a_batch_is_the_sum_over_its_images(run):
    counts = (3, 0, 1, 100, 130, 12)
    (batch,) = jax.device_get(batches(run, Counted(counts)))
    whole, parts = evaluated(run, batch), []
    for i, count in enumerate(counts):
        only = {name: np.repeat(array[i : i + 1], SCENES, axis=0) for name, array in batch.items()}
        parts.append(evaluated(run, only | {"mask": np.eye(SCENES, dtype=np.float32)[i]}))
        assert parts[-1]["loss"][1] == min(count, 100)
    for name, total in whole.items():
        np.testing.assert_allclose(total, np.sum([part[name] for part in parts], 0), rtol=1e-4)


@pytest.mark.slow
def test_padding_of_the_last_batch_has_no_loss(run):
    first, last = jax.device_get(batches(run, Counted((3, 1, 2, 4, 5, 6, 7, 8))))
    assert last["mask"].tolist() == [1, 1, 0, 0, 0, 0]
    other = {name: np.concatenate([last[name][:2], first[name][2:]]) for name in last}
    whole, same = evaluated(run, last), evaluated(run, other | {"mask": last["mask"]})
    assert whole["loss"][1] == 7 + 8
    for name, total in whole.items():
        assert same[name] == pytest.approx(total, rel=1e-5)


@pytest.mark.slow
def test_crowds_are_ignored(run):
    (batch,) = jax.device_get(batches(run, Counted((3, 1, 2, 4, 5, 6))))
    crowds = batch | {"crowd": batch["labels"] >= 0}
    totals = evaluated(run, crowds)
    assert totals["box_loss"] == (0, 0) and totals["loss"][1] == 0
    # Detections in crowds are no false positives.
    nothing = batch | {"labels": np.full_like(batch["labels"], -1)}
    assert totals["class_loss"][0] < evaluated(run, nothing)["class_loss"][0]


@pytest.fixture
def fixed_outputs(monkeypatch):
    """Replaces the network by constant boxes [batch, points, 4] in pixels of its input."""

    def make(boxes, labels):
        boxes, labels = np.asarray(boxes, np.float32), np.asarray(labels)
        logits = np.where(np.arange(10) == labels[..., None], 5.0, -9.0).astype(np.float32)

        class Fixed:
            @staticmethod
            def apply(variables, images, train):
                return jnp.asarray(logits), jnp.asarray(boxes)

        monkeypatch.setattr(ObjectDetection, "network", Fixed)
        task = replace(TASK)  # without a cached network
        return jax.jit(lambda batch: task.predict({}, {}, batch))

    return make


def test_detections_are_in_pixels_of_the_original_image(fixed_outputs):
    """For all sizes and aspect ratios, exact boxes are mapped back exactly."""
    images = Counted((5, 5, 5, 5))
    examples = DetectionExamples(images, (64, 96), 5)
    batch = examples.batch(np.arange(4), (), None)
    found = fixed_outputs(batch["boxes"], batch["labels"])(batch)
    for i in range(4):
        truth = images.annotation(i)
        real = found["scores"][i] > 0.5
        ours, theirs = (
            sorted(zip(labels.tolist(), boxes.tolist(), strict=True))
            for labels, boxes in (
                (found["labels"][i][real], found["boxes"][i][real]),
                (truth.labels, truth.boxes),
            )
        )
        assert [label for label, _ in ours] == [label for label, _ in theirs]
        np.testing.assert_allclose([b for _, b in ours], [b for _, b in theirs], atol=1e-3)


def test_detections_are_clipped_to_the_image(fixed_outputs):
    examples = DetectionExamples(Counted((0, 0, 0, 0)), TASK.image_size, 1)
    batch = examples.batch(np.arange(4), (), None)
    found = fixed_outputs([[(-9, -9, 999, 999)]] * 4, [[3]] * 4)(batch)
    sizes = [examples.images.image(i).size for i in range(4)]
    assert found["boxes"][:, 0].tolist() == [[0, 0, *size] for size in sizes]
    assert found["labels"][:, 0].tolist() == [3] * 4


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_the_scorer_reads_the_scenes_of_the_examples(split):
    examples = TASK.dataset(split)
    for index in range(4):
        one, truth = examples.example(index, np.random.default_rng(0)), examples.images
        count = len(truth.annotation(index).labels)
        assert one["labels"][:count].tolist() == truth.annotation(index).labels.tolist()
        np.testing.assert_array_equal(one["image"], truth.image(index))


@pytest.mark.slow
def test_the_config_can_be_saved_and_restored(run):
    experiment = run.program.experiment
    saved = json.loads(json.dumps(to_config_dict(experiment).to_dict()))
    assert from_config_dict(Experiment, saved) == experiment


def test_in_bfloat16_losses_and_predictions_are_float32(standard_promotion):
    task = replace(TASK, dtype="bfloat16")
    batch = task.batch_spec(2, None) | {"mask": jax.ShapeDtypeStruct((2,), jnp.float32)}
    params, variables = jax.eval_shape(task.init, jax.random.key(0))
    assert {leaf.dtype for leaf in jax.tree.leaves((params, variables))} == {jnp.dtype("float32")}
    loss = lambda *arguments: task.loss(*arguments, train=True)  # noqa: E731
    totals, _ = jax.eval_shape(loss, params, variables, batch, jax.random.key(0))
    assert {leaf.dtype for leaf in jax.tree.leaves(totals)} == {jnp.dtype("float32")}
    found = jax.eval_shape(task.predict, params, variables, batch)
    assert {name: one.dtype for name, one in found.items()} == {
        "boxes": jnp.float32,
        "scores": jnp.float32,
        "labels": jnp.int32,
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_size": (64, 40)}, "expected multiples of the largest stride, 16"),
        ({"image_size": (0, 64)}, r"image_size: invalid value \(0, 64\): expected multiples"),
        ({"max_objects": 0}, "max_objects: invalid value 0: expected at least 1"),
        ({"std": (1.0, 0.0, 1.0)}, r"std: invalid value .*: expected positive numbers"),
        (
            {"model": Detector(strides=(8, 16, 64))},
            r"consecutive .*, \(4, 8, 16, 32\)",
        ),
        (
            {"model": Detector(strides=(8, 32))},
            "expected consecutive strides of the backbone",
        ),
        (
            {"model": Detector(strides=(16, 8))},
            "expected consecutive strides of the backbone",
        ),
        ({"model": Detector(strides=())}, "expected consecutive strides of the backbone"),
    ],
)
def test_invalid_configs_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        replace(TASK, **changes)


def test_missing_data_are_named_by_their_key(tmp_path):
    with pytest.raises(ConfigError, match=r"^config\.source\.train: .*missing annotation"):
        replace(TASK, source=COCO(path=str(tmp_path))).resolve()
    with pytest.raises(ConfigError, match=r"^config\.task\.source\.test_images: .*missing"):
        replace(TASK, source=COCO(path=str(tmp_path), test="test.json")).dataset("test")


def test_configs_saved_with_former_key_names_still_open():
    saved = to_config_dict(Experiment(task=TASK, duration="1 step", batch_size=1)).to_dict()
    task = saved["task"]
    renamed = {
        ("source",): {"num_digits": "digits", "max_overlap": "overlap"},
        ("model",): {"channels": "width", "num_head_convs": "head_depth"},
        ("augmentation",): {"horizontal_flip": "flip", "mosaic_probability": "mosaic"},
        ("decoding",): {"display_threshold": "told_from", "topk_candidates": "candidates"},
    }
    for (section,), names in renamed.items():
        for new, old in names.items():
            task[section][old] = task[section].pop(new)
    # At that time, the backbone was a ResNet.
    assert task["model"]["backbone"].pop("type") == "ResNet"
    assert from_config_dict(Experiment, saved).task == TASK
