"""Where annotated images of your own come from: COCO, Pascal VOC, or TensorFlow Datasets."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from research.common.config import suggest
from research.common.errors import ConfigError
from research.common.files import read_lines
from research.data.tfds import builder, open_split
from research.tasks.object_detection.annotated_files import (
    AnnotatedFiles,
    Listing,
    held_out,
)
from research.tasks.object_detection.coco import read_coco
from research.tasks.object_detection.data import AnnotatedImages, Part
from research.tasks.object_detection.records import AnnotatedRecords, Features
from research.tasks.object_detection.voc import ANNOTATIONS, IMAGES, read_voc


@dataclass(frozen=True)
class COCO:
    """Images annotated as COCO's are: a JSON file and a folder of images for each split.

    https://cocodataset.org/#format-data: objects with `iscrowd` are neither to be found nor wrong.
    """

    path: str
    """The folder that all other paths start from."""

    train: str = "annotations/instances_train2017.json"
    """The annotations to learn from."""

    validation: str = "annotations/instances_val2017.json"
    """The annotations to choose by; empty: some images are held out of `train`."""

    test: str = ""
    """The annotations to report; empty: the validation split is tested."""

    train_images: str = "train2017"
    """The folder with the images of `train`."""

    validation_images: str = "val2017"
    """The folder with the images of `validation`."""

    test_images: str = "test2017"
    """The folder with the images of `test`."""

    validation_fraction: float = 0.1
    """The part of the images that is held out where there is no `validation`."""

    class_names: tuple[str, ...] = ()
    """By label; empty: the categories in `train` by their ids."""

    def __post_init__(self):
        _check_fraction("validation_fraction", self.validation_fraction)

    def resolve(self) -> "COCO":
        """With the class names."""
        if self.class_names:
            return self
        file = self._file("train")
        return replace(self, class_names=_distinct(read_coco(file).classes, "train", file))

    def open(self, split: str) -> AnnotatedImages:
        """The images of a split, whose objects are kept in memory."""
        if split == "test" and not self.test:
            split = "validation"
        if split == "test" or self.validation:
            return self._load(split)
        images = self._load("train")
        kept, held = held_out(range(len(images)), self.validation_fraction, "validation_fraction")
        return Part(images, held if split == "validation" else kept)

    def _load(self, split: str) -> AnnotatedFiles:
        folders = {
            "train": self.train_images,
            "validation": self.validation_images,
            "test": self.test_images,
        }
        folder = Path(self.path) / folders[split]
        if not folder.is_dir():
            problem = f"there is no folder {folder}; name that of the images"
            raise ConfigError(f"{split}_images", problem)
        listing = read_coco(self._file(split))
        listing.faults.report(listing.where)
        return AnnotatedFiles(folder, listing, self.resolve().class_names)

    def _file(self, split: str) -> Path:
        file = Path(self.path) / getattr(self, split)
        if not file.is_file():
            or_empty = "" if split == "train" else f", or leave {split} empty"
            problem = f"there is no file {file}; name that of the annotations{or_empty}"
            raise ConfigError(split, problem)
        return file


@dataclass(frozen=True)
class VOC:
    """Images annotated as Pascal VOC's: `PATH/Annotations/*.xml` and `PATH/JPEGImages`.

    `PATH/ImageSets/Main/NAME.txt` have the names of a split's files, one a line; without that
    folder a fixed part of all is tested, and another one held out for validation. Objects that are
    `difficult` are neither to be found nor wrong.
    """

    path: str
    """The folder that holds these, such as `VOCdevkit/VOC2012`."""

    train: str = "train"
    """The image set to learn from."""

    validation: str = "val"
    """The image set to choose by; empty: some images are held out of `train`."""

    test: str = ""
    """The image set to report; empty: the validation split is tested."""

    test_fraction: float = 0.1
    """The part of all images that is tested where there are no image sets."""

    validation_fraction: float = 0.1
    """The part that is held out of the rest then, or of `train` where there is no `validation`."""

    class_names: tuple[str, ...] = ()
    """By label; empty: those in `train`, or without image sets in all, in alphabetical order."""

    def __post_init__(self):
        _check_fraction("test_fraction", self.test_fraction)
        _check_fraction("validation_fraction", self.validation_fraction)

    def resolve(self) -> "VOC":
        """With the class names."""
        if self.class_names:
            return self
        listing = self._read(self._image_set("train") if self._has_sets() else self._all())
        return replace(self, class_names=_distinct(listing.classes, "path", listing.where))

    def open(self, split: str) -> AnnotatedImages:
        """The images of a split, whose objects are kept in memory."""
        class_names = self.resolve().class_names
        listing = self._read(self._stems(split))
        listing.faults.report(f"{listing.where} ({split})")
        return AnnotatedFiles(Path(self.path) / IMAGES, listing, class_names)

    def _read(self, stems: Sequence[str]) -> Listing:
        folder = Path(self.path) / IMAGES
        if not folder.is_dir():
            raise ConfigError("path", f"there is no folder {folder}; put the images there")
        return read_voc(Path(self.path), stems)

    def _stems(self, split: str) -> list[str]:
        """What the annotations of a split are called, without their suffix."""
        if self._has_sets():
            if split == "test" and not self.test:
                split = "validation"
            if split == "test" or self.validation:
                return self._image_set(split)
            rest = self._image_set("train")
        else:
            rest, test = held_out(self._all(), self.test_fraction, "test_fraction")
            if split == "test":
                return test
        kept, held = held_out(rest, self.validation_fraction, "validation_fraction")
        return held if split == "validation" else kept

    def _has_sets(self) -> bool:
        return (Path(self.path) / "ImageSets" / "Main").is_dir()

    def _all(self) -> list[str]:
        folder = Path(self.path) / ANNOTATIONS
        if stems := sorted(file.stem for file in folder.glob("*.xml")):
            return stems
        raise ConfigError("path", f"{folder} holds no .xml; put the annotations there")

    def _image_set(self, split: str) -> list[str]:
        folder, name = Path(self.path) / "ImageSets" / "Main", getattr(self, split)
        file = folder / f"{name}.txt"
        if not file.is_file():
            known = suggest(name, (other.stem for other in folder.glob("*.txt")))
            raise ConfigError(split, f"there is no image set {file}; {known}")
        if stems := [line.strip() for line in read_lines(file) if line.strip()]:
            return stems
        raise ConfigError(split, f"{file} names no image; name some")


@dataclass(frozen=True)
class DetectionTFDS:
    """A data set of TensorFlow Datasets with images and the objects in them, as ArrayRecord."""

    name: str
    """As in TFDS's catalogue, such as "coco/2017" or "voc/2012"."""

    data_dir: str = ""
    """Where the data sets lie; empty: `TFDS_DATA_DIR`, else `~/tensorflow_datasets`."""

    train: str = "train"
    """The split to learn from, in TFDS's notation."""

    validation: str = "validation"
    """The split to choose by."""

    test: str = "test"
    """The split to report."""

    image: str = "image"
    """The feature that holds the image."""

    objects: str = "objects"
    """The feature that holds the objects; each has a `bbox` and a `label`."""

    crowd: str = ""
    """What tells of an object that it is neither to be found nor wrong; empty: `is_crowd` or
    `is_difficult`, where the objects have one."""

    class_names: tuple[str, ...] = ()
    """By label; empty: those that the data set names."""

    def resolve(self) -> "DetectionTFDS":
        """With the class names."""
        return self if self.class_names else replace(self, class_names=self._classes())

    def open(self, split: str) -> AnnotatedImages:
        """The images of a split, each read from its file when it is asked for."""
        classes, class_names = self._classes(), self.resolve().class_names
        for name in classes:
            if name not in class_names:
                hint = suggest(name, class_names)
                raise ConfigError("class_names", f"'{self.name}' has a class '{name}', too; {hint}")
        labels = np.array([class_names.index(name) for name in classes], np.int32)
        records = open_split(self.name, getattr(self, split), self.data_dir, raw=(self.image,))
        parts = self._parts()
        marks = (name for name in ("is_crowd", "is_difficult") if name in parts)
        features = Features(self.image, self.objects, self.crowd or next(marks, ""))
        return AnnotatedRecords(f"{self.name} {split}", records, features, labels)

    def _classes(self) -> tuple[str, ...]:
        """By the records' labels, after a look at the features."""
        known = builder(self.name, self.data_dir).info.features
        for key in ("image", "objects"):
            if getattr(self, key) not in known:
                hint = suggest(getattr(self, key), known)
                raise ConfigError(key, f"'{self.name}' has no such feature; {hint}")
        parts = self._parts()
        for key, part in (("objects", "bbox"), ("objects", "label"), ("crowd", self.crowd)):
            if part and part not in parts:
                problem = f"'{self.objects}' of '{self.name}' have no '{part}'"
                raise ConfigError(key, f"{problem}; {suggest(part, parts)}")
        if not hasattr(parts["label"], "num_classes"):
            raise ConfigError("objects", f"their 'label' in '{self.name}' is no class label")
        form = getattr(parts["bbox"], "bbox_format", None)
        if form and form.value != "REL_YXYX":
            problem = f"their 'bbox' in '{self.name}' is {form.value}; only REL_YXYX can be read"
            raise ConfigError("objects", problem)
        return tuple(parts["label"].names)

    def _parts(self) -> dict[str, Any]:
        """The features of an object, by name."""
        known = builder(self.name, self.data_dir).info.features
        parts = getattr(known[self.objects], "feature", None)
        return dict(parts.items()) if isinstance(parts, tfds.features.FeaturesDict) else {}


def _distinct(classes: Sequence[str], key: str, where: Path | str) -> tuple[str, ...]:
    """The names of classes, of which there must be some."""
    if not classes:
        raise ConfigError(key, f"{where} has no class; annotate objects, or set class_names")
    return tuple(dict.fromkeys(classes))


def _check_fraction(key: str, fraction: float) -> None:
    if not 0 < fraction < 1:
        raise ConfigError(key, f"must lie between 0 and 1, is {fraction}")
