"""Where the images and labels come from. Every source gives uint8 images of one size."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from research.common.config import suggest
from research.common.errors import ConfigError, UserError
from research.data.dataset import ArrayDataset, Dataset, Example, Subset
from research.data.images import SUFFIXES, decode, fit, random_resized_crop, to_array
from research.data.tfds import builder, open_split


@dataclass(frozen=True)
class Digits:
    """1,797 handwritten digits of 8x8 grey pixels, from scikit-learn; nothing is downloaded.

    The test part of "Optical Recognition of Handwritten Digits" (Alpaydin and Kaynak 1998).
    """

    test_fraction: float = 0.2
    """The part that is held out as the test split, the same for every seed."""

    split: Literal["stratified", "last"] = "stratified"
    """The same part of each class, or as in scikit-learn's example the last, by new writers."""

    validation_fraction: float = 0.1
    """The part of the rest that is held out for validation, likewise fixed."""

    def __post_init__(self):
        for key in ("test_fraction", "validation_fraction"):
            if not 0 < getattr(self, key) < 1:
                raise ConfigError(key, f"must lie between 0 and 1, is {getattr(self, key)}")

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels."""
        return (8, 8, 1)

    @property
    def class_names(self) -> tuple[str, ...]:
        """By label."""
        return tuple("0123456789")

    def resolve(self) -> "Digits":
        """There is nothing to find out."""
        return self

    def open(self, split: str) -> Dataset:
        """The examples of a split."""
        digits = load_digits()
        images = np.round(digits.images * (255 / 16)).astype(np.uint8)[..., None]
        labels = digits.target.astype(np.int32)
        hold_out = _hold_out if self.split == "stratified" else _hold_out_last
        rest, test = hold_out(np.arange(len(labels)), labels, self.test_fraction)
        train, validation = hold_out(rest, labels, self.validation_fraction)
        chosen = {"train": train, "validation": validation, "test": test}[split]
        return ArrayDataset(image=images[chosen], label=labels[chosen])


@dataclass(frozen=True)
class TFDS:
    """A data set of TensorFlow Datasets with an image and a label, prepared as ArrayRecord."""

    name: str
    """As in TFDS's catalogue, such as "cifar10"."""

    image_shape: tuple[int, int, int]
    """Height, width and channels (1 or 3) that every image is brought to."""

    classes: int
    """The number of classes; the data are checked against it."""

    data_dir: str = ""
    """Where the data sets lie; empty: `TFDS_DATA_DIR`, else `~/tensorflow_datasets`."""

    train: str = "train[:95%]"
    """The split to learn from, in TFDS's notation."""

    validation: str = "train[95%:]"
    """The split to watch and to choose by."""

    test: str = "test"
    """The split to report."""

    image: str = "image"
    """The feature that holds the image."""

    label: str = "label"
    """The feature that holds the class."""

    random_resized_crop: float = 0.0
    """Train on windows of at least this part of the image's area (ImageNet: 0.08); 0: do not."""

    crop_fraction: float = 1.0
    """The central part of an image that is taken otherwise (ImageNet: 0.875)."""

    in_memory: bool = False
    """Decode the whole split once, at the start: for small images, with no random crop."""

    class_names: tuple[str, ...] = ()
    """By label; empty: those that the data set names."""

    def __post_init__(self):
        _check_images(self)
        if self.in_memory and self.random_resized_crop:
            raise ConfigError("in_memory", "cannot hold random crops; set random_resized_crop to 0")

    def resolve(self) -> "TFDS":
        """With the class names."""
        features = builder(self.name, self.data_dir).info.features
        for key in ("image", "label"):
            if getattr(self, key) not in features:
                problem = (
                    f"'{self.name}' has no such feature; {suggest(getattr(self, key), features)}"
                )
                raise ConfigError(key, problem)
        feature = features[self.label]
        if not hasattr(feature, "num_classes"):
            raise ConfigError("label", f"'{self.label}' of '{self.name}' is no class label")
        if feature.num_classes != self.classes:
            problem = f"'{self.name}' has {feature.num_classes} classes, not {self.classes}"
            raise ConfigError("classes", problem)
        return replace(self, class_names=self.class_names or tuple(feature.names))

    def open(self, split: str) -> Dataset:
        """The examples of a split."""
        records = open_split(self.name, getattr(self, split), self.data_dir, raw=(self.image,))
        crop = self.random_resized_crop if split == "train" else 0.0
        dataset = _Records(self, records, crop)
        return _load(dataset) if self.in_memory else dataset


@dataclass(frozen=True)
class ImageFolder:
    """Your own images: `PATH/train/CLASS/*.jpg`, and likewise `validation` and `test`.

    Without a `validation` folder a fixed part of `train` is held out; without a `test` folder the
    validation split is tested.
    """

    path: str
    """The folder that holds `train`."""

    image_shape: tuple[int, int, int] = (64, 64, 3)
    """Height, width and channels (1 or 3) that every image is brought to."""

    validation_fraction: float = 0.1
    """The part of each class that is held out where there is no `validation` folder."""

    random_resized_crop: float = 0.0
    """Train on windows of at least this part of the image's area; 0: do not."""

    crop_fraction: float = 1.0
    """The central part of an image that is taken otherwise."""

    on_corrupt: Literal["stop", "skip"] = "stop"
    """What to do at an image that cannot be read; the skipped ones are counted and named."""

    class_names: tuple[str, ...] = ()
    """By label; empty: the names of the folders in `train`, sorted."""

    def __post_init__(self):
        _check_images(self)
        if not 0 < self.validation_fraction < 1:
            raise ConfigError("validation_fraction", "must lie between 0 and 1")

    def resolve(self) -> "ImageFolder":
        """With the class names."""
        train = Path(self.path) / "train"
        if not train.is_dir():
            raise ConfigError("path", f"there is no folder {train}; put images in {train}/CLASS/")
        found = tuple(sorted(folder.name for folder in train.iterdir() if folder.is_dir()))
        if len(self.class_names or found) < 2:
            raise ConfigError(
                "path", f"{train} holds {len(found)} class folders; needs two or more"
            )
        return replace(self, class_names=self.class_names or found)

    def open(self, split: str) -> Dataset:
        """The examples of a split."""
        root = Path(self.path)
        if split == "test" and not (root / "test").is_dir():
            split = "validation"
        holds_out = not (root / "validation").is_dir()
        shares_train = holds_out and split != "test"
        files, labels = self._list(root / ("train" if shares_train else split))
        dataset = _Files(self, files, labels, self.random_resized_crop if split == "train" else 0.0)
        if not shares_train:
            return dataset
        train, validation = _hold_out(np.arange(len(labels)), labels, self.validation_fraction)
        return Subset(dataset, train if split == "train" else validation)

    def _list(self, folder: Path) -> tuple[list[Path], np.ndarray]:
        files, labels = [], []
        for label, name in enumerate(self.class_names):
            images = sorted(p for p in (folder / name).rglob("*") if p.suffix.lower() in SUFFIXES)
            if not images:
                known = " ".join(SUFFIXES)
                raise ConfigError(
                    "path", f"{folder / name} holds no image ({known}); fill or remove it"
                )
            files += images
            labels += [label] * len(images)
        return files, np.array(labels, np.int32)


class _Records(Dataset):
    """Encoded images out of TFDS records."""

    def __init__(self, source: TFDS, records: Sequence[Any], crop: float):
        super().__init__()
        self.source, self.records, self.crop = source, records, crop

    def __len__(self) -> int:
        return len(self.records)

    def example(self, index: int, rng: np.random.Generator) -> Example:
        record = self.records[index]
        image = _fixed_size(record[self.source.image], self.source, self.crop, rng)
        return {"image": image, "label": np.array(record[self.source.label], np.int32)}


class _Files(Dataset):
    """Image files with a label each."""

    def __init__(self, source: ImageFolder, files: list[Path], labels: np.ndarray, crop: float):
        super().__init__()
        self.source, self.files, self.labels, self.crop = source, files, labels, crop

    def __len__(self) -> int:
        return len(self.files)

    def example(self, index: int, rng: np.random.Generator) -> Example | None:
        try:
            image = _fixed_size(self.files[index], self.source, self.crop, rng)
        except UserError as error:
            if self.source.on_corrupt == "stop":
                remedy = "remove it, or set config.task.source.on_corrupt to 'skip'"
                raise UserError(f"{error}; {remedy}") from None
            self.skip(index, str(error))
            return None
        return {"image": image, "label": self.labels[index]}


def _fixed_size(
    data: bytes | Path, source: TFDS | ImageFolder, crop: float, rng: np.random.Generator
) -> np.ndarray:
    height, width, channels = source.image_shape
    image = decode(data, channels)
    if crop:
        return to_array(random_resized_crop(image, height, width, crop, rng))
    return to_array(fit(image, height, width, source.crop_fraction))


def _hold_out(
    indices: np.ndarray, labels: np.ndarray, fraction: float
) -> tuple[np.ndarray, np.ndarray]:
    """Two parts of `indices`, the second with a fixed `fraction` of each class."""
    try:
        kept, held = train_test_split(
            indices, test_size=fraction, stratify=labels[indices], random_state=0
        )
    except ValueError as error:
        raise ConfigError("validation_fraction", f"cannot hold out a part: {error}") from None
    return kept, held


def _hold_out_last(
    indices: np.ndarray, labels: np.ndarray, fraction: float
) -> tuple[np.ndarray, np.ndarray]:
    """Two parts of `indices`, the second the last `fraction` of them."""
    kept, held = train_test_split(indices, test_size=fraction, shuffle=False)
    return kept, held


def _load(dataset: Dataset) -> ArrayDataset:
    """All examples in memory, decoded by threads: Pillow lets them run side by side."""
    rng = np.random.default_rng(0)
    with ThreadPoolExecutor() as pool:
        examples = list(pool.map(lambda i: dataset.example(i, rng), range(len(dataset))))
    names = examples[0] or {}
    return ArrayDataset(**{n: np.stack([e[n] for e in examples if e is not None]) for n in names})


def _check_images(source: TFDS | ImageFolder) -> None:
    height, width, channels = source.image_shape
    if height < 1 or width < 1 or channels not in (1, 3):
        problem = f"must be (height, width, 1 or 3), is {source.image_shape}"
        raise ConfigError("image_shape", problem)
    if not 0 <= source.random_resized_crop <= 1:
        raise ConfigError(
            "random_resized_crop", f"must lie in [0, 1], is {source.random_resized_crop}"
        )
    if not 0 < source.crop_fraction <= 1:
        raise ConfigError("crop_fraction", f"must lie in (0, 1], is {source.crop_fraction}")
