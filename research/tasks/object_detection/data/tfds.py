"""Images with annotations from TensorFlow Datasets."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from research.common.config import suggest
from research.common.errors import ConfigError
from research.data.tfds import builder, open_split
from research.tasks.object_detection.data.annotated_images import AnnotatedImages
from research.tasks.object_detection.data.records import AnnotatedRecords, Features


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
