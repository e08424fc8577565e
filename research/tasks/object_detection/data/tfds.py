"""Images with annotations from TensorFlow Datasets."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from research.common.config import suggest
from research.common.errors import ConfigError
from research.data.tfds import TFDSSource
from research.tasks.object_detection.data.annotated_images import AnnotatedImages
from research.tasks.object_detection.data.records import AnnotatedRecords, Features


@dataclass(frozen=True, kw_only=True)
class DetectionTFDS(TFDSSource):
    """A data set of TensorFlow Datasets with images and the objects in them, as ArrayRecord."""

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
        records = self.records(split, raw=(self.image,))
        parts = self._parts()
        marks = (name for name in ("is_crowd", "is_difficult") if name in parts)
        features = Features(self.image, self.objects, self.crowd or next(marks, ""))
        return AnnotatedRecords(f"{self.name} {split}", records, features, labels)

    def _classes(self) -> tuple[str, ...]:
        """By the records' labels, after a look at the features."""
        self.check_features("image", "objects")
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
        parts = getattr(self.features()[self.objects], "feature", None)
        return dict(parts.items()) if isinstance(parts, tfds.features.FeaturesDict) else {}
