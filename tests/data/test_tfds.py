import io
from dataclasses import dataclass, replace

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from research.common.errors import ConfigError, UserError
from research.data.tfds import TFDSSource
from research.tasks.image_classification.data import TFDS

CLASSES = ["ant", "bee", "cat"]


class TinyImages(tfds.core.GeneratorBasedBuilder):
    """Twenty images of 6x6 whose grey value encodes their number."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = {
            "image": tfds.features.Image(shape=(6, 6, 3)),
            "label": tfds.features.ClassLabel(names=CLASSES),
        }
        return self.dataset_info_from_configs(features=tfds.features.FeaturesDict(features))

    def _split_generators(self, manager):
        return {"train": self._examples(20), "test": self._examples(7)}

    def _generate_examples(self, path):
        raise NotImplementedError

    def _examples(self, count):
        for i in range(count):
            png = io.BytesIO()  # encoded already: TFDS would need TensorFlow to do it
            Image.fromarray(np.full((6, 6, 3), 10 * i, np.uint8)).save(png, "PNG")
            png.seek(0)
            yield i, {"image": png, "label": i % 3}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds")
    TinyImages(data_dir=folder, file_format="array_record").download_and_prepare()
    return str(folder)


def source(data_dir, **changes):
    keys = {"name": "tiny_images", "image_shape": (6, 6, 3), "num_classes": 3, "data_dir": data_dir}
    return TFDS(**(keys | changes))


@pytest.mark.parametrize("in_memory", [True, False])
def test_images_and_labels_are_read(data_dir, in_memory):
    tiny = source(data_dir, train="train[:90%]", validation="train[90%:]", in_memory=in_memory)
    train, validation, test = (tiny.open(split) for split in ("train", "validation", "test"))
    assert (len(train), len(validation), len(test)) == (18, 2, 7)
    batch = train.batch(np.arange(18), (0,), None)
    order = batch["image"][:, 0, 0, 0] // 10
    assert len(set(order.tolist())) == 18
    assert batch["label"].tolist() == [number % 3 for number in order]
    assert batch["label"].dtype == np.int32


def test_class_names_are_those_of_the_data_set(data_dir):
    assert source(data_dir).resolve().class_names == tuple(CLASSES)


def test_images_are_resized(data_dir):
    dataset = source(data_dir, image_shape=(4, 5, 1), random_resized_crop=0.3).open("train")
    assert dataset.batch(np.arange(3), (0,), None)["image"].shape == (3, 4, 5, 1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"num_classes": 4},
            "num_classes: invalid number of classes 4: 'tiny_images'",
        ),
        ({"label": "lable"}, "did you mean 'label'?"),
        ({"name": "fashion_mnist"}, "make dataset NAME=fashion_mnist` prepares it"),
        ({"name": "wmt14_translate/de-en"}, "make dataset NAME=wmt14_translate/de-en` prepares it"),
        ({"name": "tiny_images:9.9.9"}, "cannot open 'tiny_images:9.9.9'"),
        ({"label": "image"}, "'image' of 'tiny_images': expected a ClassLabel"),
    ],
)
def test_configs_that_contradict_the_data_are_refused(data_dir, changes, message):
    with pytest.raises(UserError) as error:
        source(data_dir, **changes).resolve()
    assert message in str(error.value)


def tiny(data_dir, **splits):
    return TFDSSource("tiny_images", data_dir, **splits)


def test_a_missing_split_is_refused(data_dir):
    message = (
        "config.validation: no validation split: 'tiny_images' has no 'dev'; known: test, train"
    )
    with pytest.raises(ConfigError, match=message):
        tiny(data_dir, validation="dev").records("validation")


def test_validation_replaces_a_missing_test_split(data_dir, caplog):
    assert len(tiny(data_dir, validation="train[90%:]", test="").records("test")) == 2
    assert "no test split: 'tiny_images' has none" in caplog.text


def test_unknown_features_are_refused(data_dir):
    @dataclass(frozen=True)
    class Labelled(TFDSSource):
        label: str = "lable"

    labelled = Labelled("tiny_images", data_dir)
    with pytest.raises(ConfigError, match=r"label: unknown feature 'lable' of .*'label'"):
        labelled.check_features("label")
    with pytest.raises(ConfigError, match="known: image"):
        labelled.check_features("label", known=["image"])
    replace(labelled, label="label").check_features("label")


def test_overlapping_splits_are_reported(data_dir, caplog):
    tiny(data_dir, train="train[:90%]", validation="train[80%:]").records("train")
    assert (
        "2 validation examples of 'tiny_images' are in the training split too: "
        "'train[80%:]' overlaps 'train[:90%]'" in caplog.text
    )


@pytest.mark.parametrize("train", ["train[:90%]", "train[:50%]"])
def test_disjoint_splits_give_no_warning(data_dir, caplog, train):
    tiny(data_dir, train=train, validation="train[90%:]").records("train")
    assert not caplog.records


def test_random_crops_cannot_be_kept_in_memory():
    with pytest.raises(ConfigError, match="in_memory"):
        source("", in_memory=True, random_resized_crop=0.1)
