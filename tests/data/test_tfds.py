import io

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from research.common.errors import ConfigError, UserError
from research.data.tfds import open_split
from research.tasks.image_classification.data import TFDS

CLASSES = ["ant", "bee", "cat"]


class TinyImages(tfds.core.GeneratorBasedBuilder):
    """Twenty images of 6x6 whose grey value tells their label and number."""

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
    keys = {"name": "tiny_images", "image_shape": (6, 6, 3), "classes": 3, "data_dir": data_dir}
    return TFDS(**(keys | changes))


@pytest.mark.parametrize("in_memory", [True, False])
def test_images_and_labels_come_back(data_dir, in_memory):
    tiny = source(data_dir, train="train[:90%]", validation="train[90%:]", in_memory=in_memory)
    train, validation, test = (tiny.open(split) for split in ("train", "validation", "test"))
    assert (len(train), len(validation), len(test)) == (18, 2, 7)
    batch = train.batch(np.arange(18), (0,), None)
    order = batch["image"][:, 0, 0, 0] // 10
    assert len(set(order.tolist())) == 18
    assert batch["label"].tolist() == [number % 3 for number in order]
    assert batch["label"].dtype == np.int32


def test_class_names_are_found(data_dir):
    assert source(data_dir).resolve().class_names == tuple(CLASSES)


def test_images_are_brought_to_one_size(data_dir):
    dataset = source(data_dir, image_shape=(4, 5, 1), random_resized_crop=0.3).open("train")
    assert dataset.batch(np.arange(3), (0,), None)["image"].shape == (3, 4, 5, 1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes": 4}, "config.classes: 'tiny_images' has 3 classes, not 4"),
        ({"label": "lable"}, "did you mean 'label'?"),
        ({"name": "fashion_mnist"}, "make dataset NAME=fashion_mnist` prepares it"),
        ({"name": "wmt14_translate/de-en"}, "make dataset NAME=wmt14_translate/de-en` prepares it"),
        ({"name": "tiny_images:9.9.9"}, "'tiny_images:9.9.9' cannot be opened"),
        ({"label": "image"}, "'image' of 'tiny_images' is no class label"),
    ],
)
def test_what_does_not_fit_is_refused(data_dir, changes, message):
    with pytest.raises(UserError) as error:
        source(data_dir, **changes).resolve()
    assert message in str(error.value)


def test_an_absent_split_is_refused(data_dir):
    with pytest.raises(UserError, match="no split 'dev'"):
        open_split("tiny_images", "dev", data_dir, raw=())


def test_random_crops_do_not_fit_in_memory():
    with pytest.raises(ConfigError, match="in_memory"):
        source("", in_memory=True, random_resized_crop=0.1)
