"""The task, from training to prediction."""

import json
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import flags
from PIL import Image

from research.common.config import from_config_dict, to_config_dict
from research.common.errors import ConfigError, UserError
from research.data.images import save_image
from research.evaluate import evaluate_run
from research.hardware.mesh import MeshConfig
from research.layers.resnet import ResNet
from research.predict import define_flags, main, predict, visualize
from research.predictor import Predictor
from research.reporting.table import table
from research.tasks.object_detection.average_precision import Detections, match
from research.tasks.object_detection.boxes import Annotation
from research.tasks.object_detection.data import (
    COCO,
    AnnotatedImages,
    DetectionExamples,
    DigitScenes,
)
from research.tasks.object_detection.decoding import Decoding
from research.tasks.object_detection.models import Detector
from research.tasks.object_detection.task import ObjectDetection
from research.training.clock import CompilationCounter
from research.training.experiment import Experiment
from research.training.input import input_pipeline
from research.training.loop import Trainer
from research.training.optimizer import Optimizer
from tests.training.states import saved_state

SCENES, SIZE = 6, 64  # scenes to overfit, and their height and width
TASK = ObjectDetection(
    source=DigitScenes(
        scene_size=SIZE,
        num_digits=(1, 3),
        digit_height=(20, 40),
        num_train_scenes=8,
        num_test_scenes=SCENES,
    ),
    image_size=(SIZE, SIZE),
    model=Detector(
        backbone=ResNet(stem="strided", width=8), strides=(8, 16), channels=16, num_head_convs=1
    ),
)
PREDICTOR = TASK.predictor()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run that is overfitted to its test scenes."""
    experiment = Experiment(
        task=TASK,
        duration="100 steps",
        batch_size=SCENES,
        optimizer=Optimizer(learning_rate=1e-2, schedule="constant"),
        mesh=MeshConfig(devices=1),
        log_every="50 steps",
        evaluate_every="0 steps",
        checkpoint_every="0 steps",
    )
    original = DigitScenes.open
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DigitScenes, "open", lambda self, split: original(self, "test"))
        return Trainer(experiment, tmp_path_factory.mktemp("runs") / "scenes").train()[0]


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


def scene_file(folder, index, scale=1):
    """Writes a scene, upscaled, and returns its path and its objects."""
    scenes = TASK.source.open("test")
    image, (boxes, labels, crowd) = scenes.image(index), scenes.annotation(index)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "scene.png"
    image.resize((SIZE * scale, SIZE * scale), Image.Resampling.NEAREST).save(path)
    return str(path), Annotation(boxes * scale, labels, crowd)


def assert_found(objects, truth):
    """Asserts that the detections match the objects one to one."""
    names = TASK.source.class_names
    boxes = np.array([one["box"] for one in objects], np.float32).reshape(-1, 4)
    labels = np.array([names.index(one["class"]) for one in objects])
    found = Detections(boxes, np.array([one["score"] for one in objects]), labels)
    assert sorted(match(truth, found)) == list(range(len(truth.labels)))


def test_a_run_learns_and_is_evaluated(run):
    results = evaluate_run(run, "test")
    assert results["examples"] == SCENES
    assert results["ap"] > 0.8 and results["ap50"] > 0.95 and results["ap75"] > 0.8
    labels = [TASK.source.open("test").annotation(i).labels for i in range(SCENES)]
    of_classes = {f"ap/{label}" for label in np.concatenate(labels)}
    losses = {"loss", "class_loss", "box_loss"}
    assert set(results) == {"ap", "ap50", "ap75", "examples"} | losses | of_classes
    assert results["loss"] == pytest.approx(results["class_loss"] + 2 * results["box_loss"])
    saved = json.loads((run.workdir / "evaluation_test.json").read_text())
    assert saved["metrics"] == results and len(saved["figures"]) == 3


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


def test_a_batch_without_objects_trains(run, state):
    (batch,) = batches(run, Counted((0,) * SCENES))
    before = jax.device_get(state.params)
    state, loss = run.program.train_step(state, batch)
    assert 0 < float(loss) < np.inf
    after = jax.device_get(state.params)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(after))
    changed = jax.tree.map(lambda a, b: not np.array_equal(a, b), before, after)
    assert any(jax.tree.leaves(changed))


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


def test_padding_of_the_last_batch_has_no_loss(run):
    first, last = jax.device_get(batches(run, Counted((3, 1, 2, 4, 5, 6, 7, 8))))
    assert last["mask"].tolist() == [1, 1, 0, 0, 0, 0]
    other = {name: np.concatenate([last[name][:2], first[name][2:]]) for name in last}
    whole, same = evaluated(run, last), evaluated(run, other | {"mask": last["mask"]})
    assert whole["loss"][1] == 7 + 8
    for name, total in whole.items():
        assert same[name] == pytest.approx(total, rel=1e-5)


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


@pytest.mark.parametrize("scale", [1, 3])
def test_objects_in_image_files_are_detected(run, tmp_path, scale):
    given = [scene_file(tmp_path / str(i), i, scale) for i in range(SCENES)]
    rows = predict(run, [path for path, _ in given])
    for row, (path, truth) in zip(rows, given, strict=True):
        assert row["file"] == path and set(row) == {"file", "objects"}
        assert_found(row["objects"], truth)


def prediction(*objects):
    """The padded predictions of an image, given as (label, score, box)."""
    boxes, scores, labels = np.zeros((4, 4), np.float32), np.zeros(4, np.float32), np.zeros(4, int)
    for i, (label, score, box) in enumerate(objects):
        boxes[i], scores[i], labels[i] = box, score, label
    return {"boxes": boxes, "scores": scores, "labels": labels}


def test_results_are_detections_above_the_display_threshold():
    found = prediction((7, 0.75, (1, 2, 30.5, 40)), (2, 0.5, (0, 0, 9, 9)), (1, 0.25, (5, 5, 9, 9)))
    objects = [
        {"class": "7", "score": 0.75, "box": [1, 2, 30.5, 40]},
        {"class": "2", "score": 0.5, "box": [0, 0, 9, 9]},
    ]
    task = replace(TASK, decoding=Decoding(display_threshold=0.5))
    assert task.predictor().postprocess([found]) == {"objects": objects}
    assert json.loads(json.dumps(task.predictor().postprocess([found]))) == {"objects": objects}
    assert PREDICTOR.postprocess([prediction()]) == {"objects": []}


def test_the_table_has_a_row_per_object_and_one_for_images_without_objects():
    found = prediction((7, 0.75, (1.4, 2.6, 30, 40)), (2, 0.5, (0, 0, 9, 9)))
    descriptions = [
        {"file": "a.png", **PREDICTOR.postprocess([found])},
        {"file": "b.png", **PREDICTOR.postprocess([prediction()])},
    ]
    lines = table([row for one in descriptions for row in PREDICTOR.to_rows(one)]).splitlines()
    assert [line.split() for line in lines] == [
        ["file", "class", "score", "x_min", "y_min", "x_max", "y_max"],
        ["a.png", "7", "0.750", "1", "3", "30", "40"],
        ["a.png", "2", "0.500", "0", "0", "9", "9"],
        ["b.png", *["-"] * 6],
    ]


def test_detections_are_drawn_onto_the_image(tmp_path):
    Image.new("RGB", (200, 100), "grey").save(tmp_path / "photo.png")
    given, plain = str(tmp_path / "photo.png"), Image.new("RGB", (200, 100), "grey")
    nothing = PREDICTOR.visualize(given, {"objects": []})
    one = PREDICTOR.visualize(
        given, {"objects": [{"class": "7", "score": 0.9, "box": [50, 40, 90, 80]}]}
    )
    assert nothing.size == one.size == (200, 100)
    assert np.array_equal(nothing, plain)
    changed = (np.asarray(one) != np.asarray(plain)).any(axis=-1)
    assert changed[40:80, 50].all() and changed[79, 50:90].all() and not changed[:20].any()


def results(*files):
    """Writes grey images and returns results without objects."""
    for file in files:
        file.parent.mkdir(exist_ok=True)
        Image.new("RGB", (20, 10), "grey").save(file)
    return [{"file": str(file), "objects": []} for file in files]


def test_pictures_of_files_with_equal_names_are_numbered(tmp_path):
    files = [tmp_path / name for name in ("a/x.png", "b/x.png", "a/x_2.jpg", "b/x.jpg", "a/y.png")]
    paths = visualize(PREDICTOR, results(*files), tmp_path / "new" / "pictures")
    names = [path.name for path in paths]
    assert names == ["x.png", "x_2.png", "x_2_2.png", "x_3.png", "y.png"]
    assert sorted(names) == sorted(path.name for path in (tmp_path / "new/pictures").iterdir())
    assert all(Image.open(path).size == (20, 10) for path in paths)


def test_inputs_are_not_overwritten(tmp_path):
    file = tmp_path / "x.png"
    found, before = results(file), file.read_bytes()
    assert visualize(PREDICTOR, found, tmp_path) == [tmp_path / "x_2.png"]
    assert file.read_bytes() == before


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_the_scorer_reads_the_scenes_of_the_examples(split):
    examples = TASK.dataset(split)
    for index in range(4):
        one, truth = examples.example(index, np.random.default_rng(0)), examples.images
        count = len(truth.annotation(index).labels)
        assert one["labels"][:count].tolist() == truth.annotation(index).labels.tolist()
        np.testing.assert_array_equal(one["image"], truth.image(index))


class NoPictures(Predictor):
    """A predictor that implements only the abstract methods."""

    def preprocess(self, item):
        raise NotImplementedError

    def postprocess(self, predictions):
        raise NotImplementedError


def test_a_task_without_visualization_writes_no_picture_and_has_one_row_per_input(tmp_path):
    (row,) = results = [{"file": "x.png", "class": "7"}]
    assert visualize(NoPictures(), results, tmp_path / "pictures") == [None]
    assert not (tmp_path / "pictures").exists()
    assert NoPictures().to_rows(row) == [row]


def test_unwritable_pictures_are_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write .*/file/x\.png: .*; choose another path"):
        visualize(PREDICTOR, results(tmp_path / "x.png"), tmp_path / "file")


def test_images_are_written_atomically(tmp_path, monkeypatch):
    path = tmp_path / "x.png"
    save_image(path, Image.new("RGB", (3, 2), "red"))
    assert [file.name for file in tmp_path.iterdir()] == ["x.png"]

    def full(self, data):
        with self.open("wb") as file:
            file.write(data[: len(data) // 2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(UserError, match=r"cannot write .*x\.png: No space left on device"):
        save_image(path, Image.new("RGB", (3, 2), "blue"))
    assert Image.open(path).getpixel((0, 0)) == (255, 0, 0)


@pytest.fixture
def command(run, capsys):
    """Runs `research.predict` in this process, which has compiled the model; returns its lines."""
    known = set(flags.FLAGS)
    define_flags()

    def call(*arguments):
        main(flags.FLAGS(["predict", f"--workdir={run.workdir}", *arguments])[1:])
        return capsys.readouterr().out.splitlines()

    yield call
    flags.FLAGS.unparse_flags()
    for name in set(flags.FLAGS) - known:
        delattr(flags.FLAGS, name)


def test_predict_writes_pictures_and_prints_a_table(run, command, tmp_path):
    path, truth = scene_file(tmp_path, 0)
    heading, *rows, last = command(path)
    assert heading.split() == ["file", "class", "score", "x_min", "y_min", "x_max", "y_max"]
    assert sorted(row.split()[1] for row in rows) == sorted(map(str, truth.labels))
    assert last == f"pictures in {run.workdir / 'predictions'}"
    picture = Image.open(run.workdir / "predictions" / "scene.png")
    assert picture.size == (SIZE, SIZE) and not np.array_equal(picture, Image.open(path))


def test_predict_prints_a_line_of_json_per_file(command, tmp_path):
    given = [scene_file(tmp_path / name, i, scale=1 + i) for i, name in enumerate(("one", "other"))]
    folder = tmp_path / "pictures"
    lines = command(f"--pictures={folder}", "--json", *[path for path, _ in given])
    names = ("scene.png", "scene_2.png")
    for i, (line, (path, truth), name) in enumerate(zip(lines, given, names, strict=True)):
        row = json.loads(line)
        assert row["file"] == path and row["picture"] == str(folder / name)
        assert_found(row["objects"], truth)
        assert Image.open(row["picture"]).size == (SIZE * (1 + i),) * 2


def test_files_that_are_not_images_are_refused_before_writing(command, tmp_path, capsys):
    path, _ = scene_file(tmp_path, 0)
    (tmp_path / "text.jpg").write_text("no image")
    folder = tmp_path / "pictures"
    with pytest.raises(UserError, match=r"text\.jpg: unknown image format"):
        command(f"--pictures={folder}", path, str(tmp_path / "text.jpg"))
    assert not capsys.readouterr().out and not folder.exists()


def test_the_config_can_be_saved_and_restored(run):
    experiment = run.program.experiment
    saved = json.loads(json.dumps(to_config_dict(experiment).to_dict()))
    assert from_config_dict(Experiment, saved) == experiment


def test_in_bfloat16_losses_and_predictions_are_float32():
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
        ({"image_size": (64, 40)}, "image_size: expected multiples of the largest stride, 16, got"),
        ({"image_size": (0, 64)}, "image_size: expected multiples"),
        ({"max_objects": 0}, "max_objects: expected at least 1, got 0"),
        ({"std": (1.0, 0.0, 1.0)}, "std: expected positive values"),
        (
            {"model": Detector(strides=(8, 16, 64))},
            r"consecutive .*, \(4, 8, 16, 32\), got",
        ),
        (
            {"model": Detector(strides=(8, 32))},
            "strides: expected consecutive",
        ),
        (
            {"model": Detector(strides=(16, 8))},
            "strides: expected consecutive",
        ),
        ({"model": Detector(strides=())}, "strides: expected consecutive"),
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
    assert from_config_dict(Experiment, saved).task == TASK
