"""Image classification data sets of TensorFlow Datasets."""

import dataclasses
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from research.common.config import renamed_from
from research.common.errors import ConfigError
from research.data.dataset import ArrayDataset, Dataset, Example
from research.data.tfds import TFDSSource
from research.tasks.image_classification.data.preprocessing import check_preprocessing, load_image


@dataclass(frozen=True, kw_only=True)
class TFDS(TFDSSource):
    """A data set of TensorFlow Datasets with an image and a label, prepared as ArrayRecord."""

    image_shape: tuple[int, int, int]
    """Height, width and channels (1 or 3) to which every image is resized."""

    num_classes: int = renamed_from("classes", default=dataclasses.MISSING)
    """Number of classes; must agree with the data set."""

    train: str = "train[:95%]"
    """The training split, in the notation of TFDS."""

    validation: str = "train[95%:]"
    """The validation split."""

    image: str = "image"
    """Name of the image feature."""

    label: str = "label"
    """Name of the label feature."""

    random_resized_crop: float = 0.0
    """Minimum area of random crops in training, as a fraction of the image's (ImageNet: 0.08); 0
    disables them."""

    crop_fraction: float = 1.0
    """Side of the central crop otherwise, as a fraction of the largest one (ImageNet: 0.875)."""

    in_memory: bool = False
    """Decode each split once and keep it in memory: for small images without random crops."""

    class_names: tuple[str, ...] = ()
    """Names of the classes, in the order of the labels; empty: those of the data set."""

    def __post_init__(self):
        check_preprocessing(self)
        if self.in_memory and self.random_resized_crop:
            problem = "cannot keep random crops in memory; set random_resized_crop to 0"
            raise ConfigError("in_memory", problem)

    def resolve(self) -> "TFDS":
        """Returns the source with its class names.

        Raises:
          ConfigError: a feature is missing, or the number of classes differs.
        """
        self.check_features("image", "label")
        label = self.features()[self.label]
        if not hasattr(label, "num_classes"):
            problem = f"invalid feature '{self.label}' of '{self.name}': expected a ClassLabel"
            raise ConfigError("label", problem)
        if label.num_classes != self.num_classes:
            problem = f"invalid number of classes {self.num_classes}: '{self.name}' has"
            raise ConfigError("num_classes", f"{problem} {label.num_classes}")
        return dataclasses.replace(self, class_names=self.class_names or tuple(label.names))

    def open(self, split: str) -> Dataset:
        """Opens the examples of "train", "validation" or "test"."""
        records = self.records(split, raw=(self.image,))
        dataset = _Records(self, records, augment=split == "train")
        return _in_memory(dataset) if self.in_memory else dataset


class _Records(Dataset):
    """Records of TFDS with encoded images."""

    def __init__(self, source: TFDS, records: Sequence[Any], augment: bool):
        super().__init__()
        self.source, self.records, self.augment = source, records, augment

    def __len__(self) -> int:
        return len(self.records)

    def example(self, index: int, rng: np.random.Generator) -> Example:
        record = self.records[index]
        image = load_image(record[self.source.image], self.source, self.augment, rng)
        return {"image": image, "label": np.array(record[self.source.label], np.int32)}


def _in_memory(dataset: Dataset) -> ArrayDataset:
    """Decodes all examples, in threads: Pillow releases the GIL."""
    rng = np.random.default_rng(0)
    with ThreadPoolExecutor() as pool:
        examples = list(pool.map(lambda i: dataset.example(i, rng), range(len(dataset))))
    names = examples[0] or {}
    return ArrayDataset(**{n: np.stack([e[n] for e in examples if e is not None]) for n in names})
