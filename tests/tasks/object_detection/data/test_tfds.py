"""Annotated images from TensorFlow Datasets."""

import io
import logging
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from research.common.errors import UserError
from research.tasks.object_detection.data import DetectionTFDS
from research.tasks.object_detection.data.records import AnnotatedRecords, RecordFeatures

SHARED = Path(__file__).parents[4] / "shared" / "tensorflow_datasets"


def encoded(form="PNG", orientation=1):
    """An encoded image of 40 x 20 pixels before the EXIF orientation is applied."""
    file, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", (40, 20)).save(file, form, exif=exif)
    return file.getvalue()


def thing(box, label="bee", is_crowd=False):
    box = tfds.features.BBox(*map(float, box))
    return {"bbox": box, "label": label, "is_crowd": is_crowd, "area": 7}


FEATURES = RecordFeatures("image", "objects", "")
HALF = (0.25, 0.5, 0.75, 1.0)  # y_min, x_min, y_max, x_max
RECORDS = {  # each is a split, since TFDS shuffles those of one
    "train": (encoded(), [thing(HALF), thing((0, 0, 1, 0.1), "ant", is_crowd=True)]),
    "validation": (encoded("JPEG", orientation=6), [thing(HALF)]),
    "test": (encoded(), []),
    "faulty": (encoded(), [thing(HALF, -1), thing((0.5, 0.5, 0.5, 0.5)), thing(HALF, "ant")]),
    "damaged": (encoded()[:60], [thing(HALF)]),
}


class TinyScenes(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        of_object = {
            "bbox": tfds.features.BBoxFeature(),
            "label": tfds.features.ClassLabel(names=["ant", "bee"]),
            "is_crowd": np.bool_,
            "area": np.int64,
        }
        features = {
            "image": tfds.features.Image(),
            "objects": tfds.features.Sequence(of_object),
            "others": tfds.features.Sequence(
                {"bbox": tfds.features.BBoxFeature(), "label": np.int64}
            ),
            "corners": tfds.features.Sequence(
                {
                    "bbox": tfds.features.BBoxFeature(bbox_format="XYXY"),
                    "label": of_object["label"],
                }
            ),
        }
        return self.dataset_info_from_configs(features=tfds.features.FeaturesDict(features))

    def _split_generators(self, manager):
        return {
            split: [
                (0, {"image": io.BytesIO(image), "objects": things, "others": [], "corners": []})
            ]
            for split, (image, things) in RECORDS.items()
        }

    def _generate_examples(self, path):
        raise NotImplementedError


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds")
    TinyScenes(data_dir=folder, file_format="array_record").download_and_prepare()
    return str(folder)


@pytest.fixture
def source(data_dir):
    def source(**keys):
        return DetectionTFDS(**({"name": "tiny_scenes", "data_dir": data_dir} | keys))

    return source


def warnings(caplog):
    return [one.getMessage() for one in caplog.records if one.levelno == logging.WARNING]


def test_relative_boxes_become_pixels(source, caplog):
    images = source(crowd="is_crowd").resolve().open("train")
    assert len(images) == 1
    found = images.annotation(0)
    assert found.boxes.tolist() == [[20, 5, 40, 15], [0, 0, 4, 20]]
    assert found.labels.tolist() == [1, 0] and found.crowd.tolist() == [False, True]
    assert [part.dtype for part in found] == [np.float32, np.int32, bool]
    assert images.image(0).size == (40, 20)
    assert source().open("train").annotation(0).crowd.tolist() == [False, True]  # is_crowd, too
    none = source(crowd="is_crowd").open("test").annotation(0)
    assert none.boxes.shape == (0, 4) and len(none.labels) == len(none.crowd) == 0
    assert [part.dtype for part in none] == [np.float32, np.int32, bool]
    assert not warnings(caplog)


def test_boxes_are_relative_to_the_rotated_image(source):
    images = source().open("validation")
    image, found = images.load(0, np.random.default_rng(0))
    assert image.size == images.image(0).size == (20, 40)
    assert found.boxes.tolist() == images.annotation(0).boxes.tolist() == [[10, 10, 20, 30]]


def test_load_reads_a_record_once():
    reads = []

    class Records:
        def __getitem__(self, index):
            reads.append(index)
            return {"image": encoded(), "objects": {"bbox": [], "label": []}}

    images = AnnotatedRecords("tiny", Records(), FEATURES, np.arange(2))
    images.load(3, np.random.default_rng(0))
    assert reads == [3]


def test_labels_follow_configured_class_names(source):
    assert source().resolve().class_names == ("ant", "bee")
    named = source(class_names=("cat", "bee", "ant"))
    assert named.resolve() == named
    assert named.open("train").annotation(0).labels.tolist() == [1, 2]
    anywhere = source(name="not_there", class_names=("bee",))
    assert anywhere.resolve() == anywhere


def test_invalid_objects_are_logged_once(source, caplog):
    images = source(train="faulty").open("train")
    for _ in range(3):
        found = images.annotation(0)
        images.load(0, np.random.default_rng(0))
    assert found.boxes.tolist() == [[20, 5, 40, 15]] and found.labels.tolist() == [0]
    (message,) = warnings(caplog)
    assert message.startswith("tiny_scenes train:0: box [20.0, 10.0, 20.0, 10.0] has no area")
    assert message.endswith(", and 1 more")


def test_objects_without_a_label_are_removed(source, caplog):
    record = {"image": encoded(), "objects": {"bbox": [HALF, HALF], "label": [-1, 1]}}
    images = AnnotatedRecords("tiny", [record], FEATURES, np.array([5, 7]))
    assert images.annotation(0).labels.tolist() == [7]
    assert warnings(caplog) == ["tiny:0: 1 objects without a label, removed"]


def test_the_first_images_with_invalid_objects_are_named_and_others_counted(caplog):
    record = {"image": encoded(), "objects": {"bbox": [(0, 0, 0, 0)], "label": [0]}}
    images = AnnotatedRecords("tiny", [record] * 70, FEATURES, np.arange(1))
    for index in [*range(70), *range(70)]:
        images.annotation(index)
    messages = warnings(caplog)
    assert len(messages) == 22
    assert messages[19].startswith("tiny:19: box [0.0, 0.0, 0.0, 0.0] has no area")
    assert messages[20:] == [
        f"tiny: {count} images with invalid objects so far" for count in (32, 64)
    ]


def test_damaged_images_are_named(source):
    images = source(test="damaged").open("test")
    for read in (
        images.image,
        images.annotation,
        lambda i: images.load(i, np.random.default_rng(0)),
    ):
        with pytest.raises(UserError, match=r"tiny_scenes test:0: .*cannot read image"):
            read(0)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"image": "imgae"}, "config.image: .* did you mean 'image'?"),
        ({"objects": "object"}, "config.objects: .* did you mean 'objects'?"),
        ({"objects": "image"}, "config.objects: missing 'bbox' in 'image' of 'tiny_scenes'"),
        (
            {"objects": "others"},
            "config.objects: invalid 'label' in 'others' of .*: expected",
        ),
        (
            {"objects": "corners"},
            "unsupported box format XYXY .*: expected REL_YXYX",
        ),
        (
            {"crowd": "is_crowdy"},
            "config.crowd: unknown .* 'is_crowdy' .*did you mean 'is_crowd'",
        ),
        ({"class_names": ("ant", "bees")}, "config.class_names: .* 'bee'.*did you mean 'bees'"),
        ({"train": "trian"}, "no train split: 'tiny_scenes' has no 'trian'; did you mean 'train'?"),
        ({"name": "elsewhere"}, "make dataset NAME=elsewhere` prepares it"),
    ],
)
def test_invalid_configs_are_refused(source, keys, message):
    with pytest.raises(UserError, match=message):
        source(**keys).open("train")


@pytest.mark.skipif(not (SHARED / "bccd").is_dir(), reason=f"BCCD is not prepared in {SHARED}")
def test_blood_cells():
    cells = DetectionTFDS(name="bccd", data_dir=str(SHARED)).resolve()
    assert cells.class_names == ("RBC", "WBC", "Platelets")
    splits = [cells.open(split) for split in ("train", "validation", "test")]
    assert [len(images) for images in splits] == [205, 87, 72]
    found = [splits[2].annotation(index) for index in range(72)]
    labels = np.concatenate([annotation.labels for annotation in found])
    assert np.bincount(labels).tolist() == [805, 71, 69]
    # BCCD was annotated in whole pixels.
    boxes = np.concatenate([annotation.boxes for annotation in found])
    assert np.abs(boxes - boxes.round()).max() < 1e-3
