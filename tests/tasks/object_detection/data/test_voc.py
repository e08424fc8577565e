"""Pascal VOC annotation files."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from research.common.errors import ConfigError, UserError
from research.tasks.object_detection.data import VOC
from tests.tasks.object_detection.data.image_files import SPLITS, greys, save, warnings


def bounded(box, name="dog", more=""):
    edges = zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
    bounds = "".join(f"<{tag}>{value}</{tag}>" for tag, value in edges)
    return f"<object>{more}<name>{name}</name><bndbox>{bounds}</bndbox></object>"


SIZE = "<size><width>40</width><height>30</height><depth>3</depth></size>"


@pytest.fixture
def voc(tmp_path):
    """Returns a function that writes an annotation and its image, and returns their source."""
    for folder in ("Annotations", "JPEGImages"):
        (tmp_path / folder).mkdir()

    def write(stem, content, suffix=".png", size=(40, 30), grey=0, whole=False):
        text = content if whole else f"<annotation>{content}</annotation>"
        (tmp_path / "Annotations" / f"{stem}.xml").write_text(text)
        if suffix:
            save(tmp_path / "JPEGImages" / f"{stem}{suffix}", size, grey)
        return VOC(path=str(tmp_path))

    return write


def image_sets(source, **sets):
    folder = Path(source.path) / "ImageSets" / "Main"
    folder.mkdir(parents=True, exist_ok=True)
    for name, stems in sets.items():
        (folder / f"{name}.txt").write_text("".join(f"{stem}\n" for stem in stems))


def test_one_based_inclusive_pixels_are_converted(voc, caplog):
    part = "<part><name>head</name><bndbox><xmin>9</xmin></bndbox></part>"
    voc("a", SIZE + bounded((1, 1, 40, 30), "dog") + bounded((3, 4.0, 3, 10), "cat", part))
    voc("b", SIZE)
    source = voc("c", SIZE + bounded((1, 1, 2, 2), more="<difficult>1</difficult>"))
    image_sets(source, train=["c", "b", "a"], val=["a"])
    source = source.resolve()
    assert source.class_names == ("cat", "dog")
    images = source.open("train")
    difficult, none, two = (images.annotation(i) for i in range(3))
    assert two.boxes.tolist() == [[0, 0, 40, 30], [2, 3, 3, 10]]
    assert two.labels.tolist() == [1, 0] and two.crowd.tolist() == [False, False]
    assert difficult.boxes.tolist() == [[0, 0, 2, 2]] and difficult.crowd.tolist() == [True]
    assert none.boxes.shape == (0, 4)
    for found in (difficult, none, two):
        assert [part.dtype for part in found] == [np.float32, np.int32, bool]
    named = replace(source, class_names=("dog", "emu", "cat")).open("validation")
    assert named.annotation(0).labels.tolist() == [0, 2]
    assert not warnings(caplog)


def test_the_image_has_the_name_of_the_annotation_or_else_the_given_filename(voc):
    voc("a", f"<filename>b.png</filename>{SIZE}", grey=33)
    voc("b", f"<filename>of another computer.jpg</filename>{SIZE}", grey=66)
    voc("c.1", SIZE, suffix=".JPG", grey=99)
    voc("e", f"<filename>b.png</filename>{SIZE}", suffix="")
    source = voc("d", f"<filename>lost.jpg</filename>{SIZE}", suffix="")
    image_sets(source, train=["a", "b", "c.1", "e", "d"])
    images = replace(source, class_names=("x",)).open("train")
    assert [images.image(i).getpixel((0, 0))[0] for i in range(4)] == [33, 66, 99, 66]
    with pytest.raises(UserError, match=r"JPEGImages/lost.jpg: no such file"):
        images.image(4)


def test_a_missing_size_is_read_from_the_image(voc, caplog):
    zeros = "<size><width>0</width><height>0</height></size>"
    voc("a", bounded((1, 1, 100, 100)), size=(50, 20))
    voc("b", zeros + bounded((1, 1, 100, 100)), size=(20, 50))
    source = voc("c", zeros + bounded((1, 1, 100, 100)), suffix="")
    image_sets(source, train=["a", "b", "c"])
    images = source.resolve().open("train")
    assert [images.annotation(i).boxes.tolist() for i in range(3)] == [
        [[0, 0, 50, 20]],
        [[0, 0, 20, 50]],
        [],
    ]
    assert images.image(0).size == (50, 20) and images.image(1).size == (20, 50)
    (message,) = warnings(caplog)
    assert "clipped: 2, e.g. box [0.0, 0.0, 100.0, 100.0] of a.png" in message
    assert "Annotations (train): " in message


def test_image_sets_are_the_splits(voc):
    for number in range(1, 11):
        source = voc(f"{number}", SIZE + bounded((1, 1, 2, 2)), grey=number)
    image_sets(source, train=range(1, 8), val=[8], test=[" 9", "", "10 "])
    source = source.resolve()
    assert greys(source.open("train")) == list(range(1, 8))
    assert greys(source.open("validation")) == greys(source.open("test")) == [8]
    assert greys(replace(source, test="test").open("test")) == [9, 10]
    splits = [greys(replace(source, validation="").open(split)) for split in SPLITS]
    assert sorted(splits[0] + splits[1]) == list(range(1, 8)) and len(splits[1]) == 1
    assert splits[1] == splits[2]


def test_without_image_sets_fixed_fractions_are_held_out(voc):
    for number in range(1, 21):
        name = "rare" if number == 20 else "dog"
        source = voc(f"{number:02}", SIZE + bounded((1, 1, 2, 2), name), grey=number)
    source = replace(source, test_fraction=0.2, validation_fraction=0.25).resolve()
    assert source.class_names == ("dog", "rare")
    train, validation, test = (greys(source.open(split)) for split in SPLITS)
    assert [len(train), len(validation), len(test)] == [12, 4, 4]
    assert sorted(train + validation + test) == list(range(1, 21))
    assert train == sorted(train) and greys(source.open("test")) == test


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("<annotation><object>", "invalid XML in "),
        ('<?xml version="1.0" encoding="x"?><a/>', "a.xml: unknown encoding"),
        ("<html></html>", "a.xml: expected <annotation>"),
        (bounded((1, 2, 3, "four")), "invalid <ymax> 'four' in "),
        ("<size><width>inf</width></size>", "invalid <width> 'inf' in "),
        (bounded((1, 2, 3, "")), "missing <ymax> of <bndbox> in "),
        (bounded((1, 2, 3, 4), " "), "missing <name> of <object> in "),
        ("<object><name>dog</name></object>", "missing <bndbox> of an <object> in "),
        ("<size><width>3</width></size>", "missing <height> of <size> in "),
    ],
)
def test_invalid_files_are_refused_in_one_line(voc, content, message):
    whole = content.startswith(("<annotation>", "<?", "<html>"))
    source = voc("a", content, whole=whole)
    image_sets(source, train=["a"])
    with pytest.raises(UserError) as error:
        source.resolve()
    assert message in str(error.value) and "\n" not in str(error.value)


def test_invalid_boxes_are_corrected_or_removed_with_one_warning(voc, caplog):
    wrong = [("nan", 1, 5, 5), (45, 5, 1, 1), (50, 1, 60, 9), (0, 0, 9, 9)]
    source = voc("a", SIZE + "".join(map(bounded, wrong)))
    image_sets(source, train=["a"])
    found = source.resolve().open("train").annotation(0)
    assert found.boxes.tolist() == [[1, 1, 40, 4], [0, 0, 9, 9]]
    (message,) = warnings(caplog)
    assert "no area within the image, removed: 2, " in message and "sorted: 1, " in message
    assert "clipped: 2, e.g. box [44.0, 4.0, 1.0, 1.0] of a.png" in message


def test_classes_outside_of_the_training_split_are_refused(voc):
    voc("a", SIZE + bounded((1, 1, 2, 2), "dog"))
    source = voc("b", SIZE + bounded((1, 1, 2, 2), "dgo"))
    image_sets(source, train=["a"], val=["b"])
    with pytest.raises(UserError, match=r"1 objects, e.g. 'dgo' in b.png \(did you mean 'do"):
        source.resolve().open("validation")


def test_missing_files_are_named(voc, tmp_path):
    with pytest.raises(ConfigError, match=r"config.path: missing annotations: .*empty/Annotations"):
        VOC(path=str(tmp_path / "empty")).resolve()
    source = voc("a", SIZE, suffix="")
    with pytest.raises(ConfigError, match=r"config.path: no classes in .*Annotations"):
        source.resolve()
    image_sets(source, train=["a", "b"], trainval=[])
    for changes, message in (
        (
            {"train": "trian"},
            "config.train: no train split: missing image set .* did you mean 'train'",
        ),
        ({"train": "trainval"}, "config.train: .*empty image set .*trainval.txt"),
        ({}, "cannot read .*Annotations/b.xml: .*remove it from the image set"),
    ):
        with pytest.raises(UserError, match=message):
            replace(source, **changes).resolve()
    (tmp_path / "JPEGImages").rmdir()
    with pytest.raises(ConfigError, match=r"config.path: missing directory .*JPEGImages"):
        source.resolve()
