"""COCO annotation files."""

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from research.common.errors import ConfigError, UserError
from research.tasks.object_detection.data import COCO, VOC, DetectionExamples
from tests.tasks.object_detection.data.image_files import SPLITS, greys, save, warnings


def image(number, **changes):
    return {"id": number, "file_name": f"{number}.png", "width": 40, "height": 30} | changes


def annotation(number, bbox, image_id=7, category_id=90, **changes):
    keys = {"id": number, "image_id": image_id, "category_id": category_id, "bbox": bbox}
    return keys | changes


def coco_json():
    """Image 3 has no object; categories and annotations are unordered."""
    return {
        "images": [image(7), image(3), image(5)],
        "annotations": [
            annotation(11, [1, 2, 3.5, 4], segmentation=[[1, 2, 3, 4, 5, 6]], iscrowd=0),
            annotation(12, [0, 0, 40, 30], image_id=5, category_id=18),
            annotation(13, [10, 20, 30, 10], category_id=1, iscrowd=1),
        ],
        "categories": [
            {"id": 90, "name": "toothbrush", "supercategory": "indoor"},
            {"id": 1, "name": "person"},
            {"id": 18, "name": "dog"},
        ],
    }


@pytest.fixture
def coco(tmp_path):
    """Returns a function that writes annotations of 3.png, 5.png and 7.png, and their source."""
    for number in (3, 5, 7):
        save(tmp_path / "images" / f"{number}.png", grey=number)

    def write(content=None, **keys):
        text = content if isinstance(content, str) else json.dumps(content or coco_json())
        (tmp_path / "train.json").write_text(text)
        fixed = {
            "train_images": "images",
            "validation": "train.json",
            "validation_images": "images",
        }
        return COCO(**({"path": str(tmp_path), "train": "train.json"} | fixed | keys))

    return write


def test_boxes_become_corners_and_category_ids_labels(coco, caplog):
    source = coco().resolve()
    assert source.class_names == ("person", "dog", "toothbrush")
    images = source.open("train")
    assert greys(images) == [7, 3, 5]
    both, none, one = (images.annotation(i) for i in range(3))
    assert both.boxes.tolist() == [[1, 2, 4.5, 6], [10, 20, 40, 30]]
    assert both.labels.tolist() == [2, 0] and both.crowd.tolist() == [False, True]
    assert one.boxes.tolist() == [[0, 0, 40, 30]] and one.labels.tolist() == [1]
    assert none.boxes.shape == (0, 4) and len(none.labels) == len(none.crowd) == 0
    for found in (both, none, one):
        assert [part.dtype for part in found] == [np.float32, np.int32, bool]
    loaded, objects = images.load(0, np.random.default_rng(0))
    assert loaded.mode == "RGB" and objects.labels.tolist() == [2, 0]
    assert not warnings(caplog)


def test_labels_follow_configured_class_names(coco):
    source = coco(class_names=("dog", "cat", "toothbrush", "person"))
    assert source.resolve() == source
    assert source.open("train").annotation(0).labels.tolist() == [2, 3]
    numbered_otherwise = coco_json()
    for row in numbered_otherwise["categories"]:
        row["id"] = 100 - row["id"]
    for row in numbered_otherwise["annotations"]:
        row["category_id"] = 100 - row["category_id"]
    (Path(source.path) / "val.json").write_text(json.dumps(numbered_otherwise))
    other = replace(source, validation="val.json").open("validation")
    assert other.annotation(0).labels.tolist() == [2, 3]


def test_categories_of_equal_name_are_one_class(coco):
    content = coco_json()
    content["categories"][1]["name"] = "toothbrush"
    source = coco(content).resolve()
    assert source.class_names == ("toothbrush", "dog")
    assert source.open("train").annotation(0).labels.tolist() == [0, 0]


def test_resolved_sources_need_no_data():
    for source in (COCO, VOC):
        named = source(path="/nowhere", class_names=("a",))
        assert named.resolve() == named


def many(count):
    """Images with one object each, as wide as the id of the image."""
    return {
        "images": [image(i) for i in range(1, count + 1)],
        "annotations": [annotation(i, [0, 0, i, 9], i, 1) for i in range(1, count + 1)],
        "categories": [{"id": 1, "name": "x"}],
    }


def test_a_fraction_of_the_images_is_held_out(coco):
    source = coco(many(20), validation="", validation_fraction=0.2)
    for number in range(1, 21):
        save(Path(source.path) / "images" / f"{number}.png", grey=number)
    train, validation, test = (source.open(split) for split in SPLITS)
    assert (len(train), len(validation)) == (16, 4)
    kept, held = greys(train), greys(validation)
    assert sorted(kept + held) == list(range(1, 21))
    assert kept == sorted(kept) and held != [17, 18, 19, 20]
    assert greys(test) == held == greys(source.open("validation"))
    assert [test.annotation(i).boxes[0, 2] for i in range(4)] == held
    with pytest.raises(ConfigError, match=r"cannot hold out 0\.1 of 1 examples"):
        coco(many(1), validation="").open("train")


def test_images_in_two_splits_are_reported(coco, caplog):
    source = coco(many(3), test="test.json", test_images="other")
    root = Path(source.path)
    (root / "test.json").write_text(json.dumps(many(2)))
    for folder, shades in {"images": (1, 2, 3), "other": (9, 3)}.items():
        for number, grey in enumerate(shades, 1):
            save(root / folder / f"{number}.png", grey=grey)
    source.open("train")
    shared = f"1 test example is in the training split too: {root}/other/2.png = {root}/images/3"
    assert shared in caplog.text


def test_each_split_has_its_file_and_directory(coco):
    source = coco(test="test.json", test_images="other")
    root = Path(source.path)
    (root / "test.json").write_text(json.dumps(many(2)))
    for number in (1, 2):
        save(root / "other" / f"{number}.png", grey=100 + number)
    source = source.resolve()
    assert [len(source.open(split)) for split in ("train", "validation")] == [3, 3]
    with pytest.raises(UserError, match=r"test.json: .* 'x' in 1.png"):
        source.open("test")
    assert greys(replace(source, class_names=("x",)).open("test")) == [101, 102]


def test_invalid_boxes_are_corrected_or_removed_with_one_warning(coco, caplog):
    content = coco_json()
    content["annotations"] += [
        annotation(21, [35, 25, 10, 10], image_id=5),
        annotation(22, [-5, 0, 10, 10], image_id=5),
        annotation(23, [5, 5, 0, 4], image_id=5),
        annotation(24, [100, 5, 10, 10], image_id=5),
        annotation(25, [float("nan"), 5, 10, 10], image_id=5),
        annotation(26, [10, 10, -4, 5], image_id=5, iscrowd=1),
        annotation(27, [30, 20, 10.3, 10], image_id=5),
        annotation(28, [1, 1, 2, 2], image_id=99),
        annotation(29, [1, 1, 2, 2], image_id=98),
        annotation(30, [1, 1, 2, 2], category_id=18),
    ]
    images = coco(content).resolve().open("train")
    found = images.annotation(2)
    kept = [[0, 0, 40, 30], [35, 25, 40, 30], [0, 0, 5, 10], [6, 10, 10, 15], [30, 20, 40, 30]]
    assert found.boxes.tolist() == kept
    assert found.labels.tolist() == [1, 2, 2, 2, 2]
    assert found.crowd.tolist() == [False, False, False, True, False]
    assert images.annotation(0).labels.tolist() == [2, 0, 1]
    again = coco(content).resolve().open("train")
    assert again.annotation(2).boxes.tolist() == kept
    (message,) = warnings(caplog)
    assert "train.json: annotations of unknown images, removed: 2, " in message
    assert "e.g. annotation 28 of image 99" in message
    assert "clipped: 2, e.g. box [35.0, 25.0, 45.0, 35.0] of annotation 21 in 5" in message
    assert "sorted: 1, e.g. box [10.0, 10.0, 6.0, 15.0] of annotation 26" in message
    assert "no area within the image, removed: 3, e.g. box [5.0, 5.0, 5.0, 9.0] of" in message


def changed(**rows):
    """Annotations with a key of the last row of a list changed, or removed if None."""
    content = coco_json()
    for name, change in rows.items():
        if change is None:
            del content[name]
            continue
        for key, value in change.items():
            content[name][-1][key] = value
            if value is None:
                del content[name][-1][key]
    return content


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"images": [', "train.json: Expecting value: line 1"),
        ("[]", "missing list 'images' in "),
        (changed(annotations=None), "missing list 'annotations' in "),
        (changed(categories=None), "missing list 'categories' in "),
        (changed(images={"file_name": None}), "missing 'file_name' in {'id': 5, 'width': 40"),
        (changed(images={"file_name": None}), "train.json; correct the file"),
        (changed(images={"width": None}), "missing 'width' in"),
        (changed(images={"height": 0}), "invalid width or height in {'id': 5"),
        (changed(images={"id": 3}), "duplicate id of {'id': 3, 'file_name': '3.png'"),
        (changed(annotations={"bbox": None}), "missing 'bbox' in {'id': 13"),
        (
            changed(annotations={"bbox": [1, 2, 3]}),
            "invalid 'bbox', expected 4 numbers, in {",
        ),
        (
            changed(annotations={"bbox": ["a", 2, 3, 4]}),
            "invalid 'bbox', expected 4 numbers, in {",
        ),
        (changed(annotations={"image_id": None}), "missing 'image_id'"),
        (changed(annotations={"image_id": [5]}), "invalid 'image_id', expected a number"),
        (changed(annotations={"category_id": {}}), "invalid 'category_id', expected a number"),
        (changed(images={"id": [5]}), "invalid 'id', expected a number"),
        (changed(categories={"name": None}), "missing 'name'"),
        (
            changed(annotations={"category_id": 19}),
            "1 annotations with unknown categories, e.g. 19 of annotation 13 in 7.png",
        ),
        (changed(annotations={"category_id": 19}), "(did you mean '1'?)"),
        ({"images": [], "annotations": [], "categories": []}, "no images in 'images' of "),
    ],
)
def test_invalid_files_are_refused_in_one_line(coco, content, message):
    with pytest.raises(UserError) as error:
        coco(content).resolve().open("train")
    assert message in str(error.value) and "\n" not in str(error.value)


def test_unknown_classes_are_refused_with_a_suggestion(coco):
    content = coco_json()
    content["categories"].append({"id": 99, "name": "of nothing"})
    content["annotations"].append(annotation(14, [0, 0, 1, 1], category_id=18))
    with pytest.raises(UserError) as error:
        coco(content, class_names=("person", "toothbrush", "dogs")).open("train")
    assert "2 objects, e.g. 'dog' in 5.png (did you mean 'dogs'?)" in str(error.value)
    assert "correct it or add it to class_names" in str(error.value)
    assert len(coco(content, class_names=("person", "toothbrush", "dog")).open("train")) == 3


def test_images_that_differ_from_their_annotation_are_skipped(coco):
    source = coco()
    folder = Path(source.path) / "images"
    (folder / "7.png").unlink()
    (folder / "3.png").write_bytes(b"no image")
    save(folder / "5.png", size=(30, 40))
    images = source.resolve().open("train")
    for index, message in enumerate(
        (
            "7.png: no such file",
            "3.png: unknown image format",
            "invalid size 30 x 40 of ",
        )
    ):
        with pytest.raises(UserError) as error:
            images.image(index)
        assert message in str(error.value)
    assert "has 40 x 30" in str(error.value)
    save(folder / "3.png")
    examples = DetectionExamples(images, (32, 32), 5)
    assert examples.batch(np.arange(3), (0,), None)["mask"].tolist() == [0, 1, 0]
    assert sorted(examples.unusable) == [0, 2] and "7.png" in examples.unusable[0]


def test_files_are_parsed_once_until_they_change(coco, monkeypatch):
    source = coco()
    file = Path(source.path) / "train.json"
    loads = []
    load = json.load
    monkeypatch.setattr(json, "load", lambda *args, **keys: loads.append(1) or load(*args, **keys))
    for split in SPLITS:
        source.resolve().open(split)
    assert len(loads) == 1
    coco(many(2))
    os.utime(file, (1, 1))
    assert source.resolve().class_names == ("x",)


def test_missing_files_are_named_by_their_key(coco):
    source = coco()
    for keys, split, message in (
        (
            {"train": "nowhere.json"},
            "train",
            "no train split: missing .* .*nowhere.json",
        ),
        ({"train_images": "away"}, "train", "config.train_images: .* missing directory .*away"),
        ({"test": "train.json"}, "test", "config.test_images: .* missing directory .*test2017"),
        (
            {"validation": "nowhere.json"},
            "validation",
            "config.validation: no validation split: missing annotation file",
        ),
    ):
        with pytest.raises(ConfigError, match=message):
            replace(source, **keys).resolve().open(split)
    with pytest.raises(ConfigError, match="validation_fraction: invalid fraction 1"):
        replace(source, validation_fraction=1.0)
    for fraction in ("test_fraction", "validation_fraction"):
        with pytest.raises(ConfigError, match=f"{fraction}: invalid fraction"):
            VOC(path="", **{fraction: 0.0})
    empty = coco_json() | {"annotations": [], "categories": []}
    with pytest.raises(ConfigError, match=r"config.train: no classes in .*train.json"):
        coco(empty).resolve()
