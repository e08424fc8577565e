"""Images with annotations from TensorFlow Datasets."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from research.common.config import suggest
from research.common.errors import ConfigError
from research.data.tfds import TFDSSource
from research.tasks.object_detection.data.annotated_images import AnnotatedImages
from research.tasks.object_detection.data.records import AnnotatedRecords, RecordFeatures


@dataclass(frozen=True, kw_only=True)
class DetectionTFDS(TFDSSource):
    """A TFDS data set of images and objects, such as "coco/2017" or "voc/2012"."""

    image: str = "image"
    """Feature with the image."""

    objects: str = "objects"
    """Feature with the objects, a sequence of `bbox` and `label`."""

    crowd: str = ""
    """Feature of an object that excludes it from the loss and from AP; empty: `is_crowd` or
    `is_difficult`, if the objects have one of them."""

    class_names: tuple[str, ...] = ()
    """Class names by label; empty: those of the data set."""

    def resolve(self) -> "DetectionTFDS":
        """Returns the source with its class names."""
        return self if self.class_names else replace(self, class_names=self._classes())

    def open(self, split: str) -> AnnotatedImages:
        """Opens a split; its records are read on access."""
        classes, class_names = self._classes(), self.resolve().class_names
        for name in classes:
            if name not in class_names:
                problem = f"missing class '{name}' of '{self.name}'; {suggest(name, class_names)}"
                raise ConfigError("class_names", problem)
        labels = np.array([class_names.index(name) for name in classes], np.int32)
        records = self.records(split, raw=(self.image,))
        fields = self._object_features()
        defaults = (name for name in ("is_crowd", "is_difficult") if name in fields)
        features = RecordFeatures(self.image, self.objects, self.crowd or next(defaults, ""))
        return AnnotatedRecords(f"{self.name} {split}", records, features, labels)

    def _classes(self) -> tuple[str, ...]:
        """Checks the features and returns the class names of the records."""
        self.check_features("image", "objects")
        fields = self._object_features()
        for name in ("bbox", "label"):
            if name not in fields:
                problem = f"missing '{name}' in '{self.objects}' of '{self.name}'"
                raise ConfigError("objects", f"{problem}; {suggest(name, fields)}")
        if self.crowd:
            self.check_features("crowd", known=fields)
        if not hasattr(fields["label"], "num_classes"):
            problem = f"invalid 'label' in '{self.objects}' of '{self.name}'"
            raise ConfigError("objects", f"{problem}: expected a class label")
        box_format = getattr(fields["bbox"], "bbox_format", None)
        if box_format and box_format.value != "REL_YXYX":
            problem = f"unsupported box format {box_format.value} of '{self.name}'"
            raise ConfigError("objects", f"{problem}: expected REL_YXYX")
        return tuple(fields["label"].names)

    def _object_features(self) -> dict[str, Any]:
        """Returns the features of an object by name."""
        fields = getattr(self.features()[self.objects], "feature", None)
        return dict(fields.items()) if isinstance(fields, tfds.features.FeaturesDict) else {}
