"""Prediction from image files, in Python and from the command line."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from absl import flags
from PIL import Image

from research.common.errors import UserError
from research.data.images import decode, image_size, save_image
from research.predict import define_flags, main, predict, visualize
from research.predictor import Predictor
from research.reporting.table import table
from research.tasks.object_detection.average_precision import Detections, match
from research.tasks.object_detection.boxes import Annotation
from research.tasks.object_detection.decoding import Decoding
from tests.tasks.object_detection.overfitting import SCENES, SIZE, TASK

PREDICTOR = TASK.predictor()


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


@pytest.mark.slow
@pytest.mark.parametrize("scale", [1, 3])
def test_objects_in_image_files_are_detected(overfitted, tmp_path, scale):
    given = [scene_file(tmp_path / str(i), i, scale) for i in range(SCENES)]
    rows = predict(overfitted, [path for path, _ in given])
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
    assert all(image_size(path) == (20, 10) for path in paths)


def test_inputs_are_not_overwritten(tmp_path):
    file = tmp_path / "x.png"
    found, before = results(file), file.read_bytes()
    assert visualize(PREDICTOR, found, tmp_path) == [tmp_path / "x_2.png"]
    assert file.read_bytes() == before


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
    assert decode(path, 3).getpixel((0, 0)) == (255, 0, 0)


@pytest.fixture
def command(capsys):
    """Runs `research.predict` in this process, which has compiled the model; returns its lines."""
    known = set(flags.FLAGS)
    define_flags()

    def call(run, *arguments):
        main(flags.FLAGS(["predict", f"--workdir={run.workdir}", *arguments])[1:])
        return capsys.readouterr().out.splitlines()

    yield call
    flags.FLAGS.unparse_flags()
    for name in set(flags.FLAGS) - known:
        delattr(flags.FLAGS, name)


@pytest.mark.slow
def test_predict_prints_a_table_and_writes_pictures_if_asked_to(overfitted, command, tmp_path):
    path, truth = scene_file(tmp_path, 0)
    assert len(command(overfitted, path)) == 1 + len(truth.labels)
    assert not (overfitted.workdir / "predictions").exists()
    folder = tmp_path / "pictures"
    heading, *rows, last = command(overfitted, f"--pictures={folder}", path)
    assert heading.split() == ["file", "class", "score", "x_min", "y_min", "x_max", "y_max"]
    assert sorted(row.split()[1] for row in rows) == sorted(map(str, truth.labels))
    assert last == f"pictures in {folder}"
    picture = decode(folder / "scene.png", 3)
    assert picture.size == (SIZE, SIZE) and not np.array_equal(picture, decode(Path(path), 3))


@pytest.mark.slow
def test_predict_prints_a_line_of_json_per_file(overfitted, command, tmp_path):
    given = [scene_file(tmp_path / name, i, scale=1 + i) for i, name in enumerate(("one", "other"))]
    folder = tmp_path / "pictures"
    lines = command(overfitted, f"--pictures={folder}", "--json", *[path for path, _ in given])
    names = ("scene.png", "scene_2.png")
    for i, (line, (path, truth), name) in enumerate(zip(lines, given, names, strict=True)):
        row = json.loads(line)
        assert row["file"] == path and row["picture"] == str(folder / name)
        assert_found(row["objects"], truth)
        assert image_size(Path(row["picture"])) == (SIZE * (1 + i),) * 2


@pytest.mark.slow
def test_files_that_are_not_images_are_named_and_others_are_answered(
    overfitted, command, tmp_path, capsys
):
    path, truth = scene_file(tmp_path, 0)
    (tmp_path / "text.jpg").write_text("no image")
    folder, text = tmp_path / "pictures", str(tmp_path / "text.jpg")
    with pytest.raises(SystemExit, match="1"):
        command(overfitted, f"--pictures={folder}", "--json", text, path)
    printed = capsys.readouterr()
    failed, answered = map(json.loads, printed.out.splitlines())
    assert failed == {"file": text, "error": f"cannot read image {text}: unknown image format"}
    assert printed.err == f"error: {failed['error']}\n"
    assert_found(answered["objects"], truth)
    assert answered["picture"] == str(folder / "scene.png")
