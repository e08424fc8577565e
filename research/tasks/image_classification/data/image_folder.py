"""A folder of image files, one subfolder for each class."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from research.common.errors import ConfigError, UserError
from research.data.dataset import Dataset, Example, Subset
from research.data.images import SUFFIXES
from research.data.splits import (
    check_duplicates,
    check_fraction,
    fall_back_to_validation,
    hold_out_stratified,
)
from research.tasks.image_classification.data.preprocessing import check_preprocessing, load_image


@dataclass(frozen=True)
class ImageFolder:
    """Your own images: `PATH/train/CLASS/*.jpg`, and likewise `validation` and `test`.

    Without a `validation` folder, a fixed part of `train` is held out. Without a `test` folder, the
    validation split is the test split.
    """

    path: str
    """Folder that contains `train`."""

    image_shape: tuple[int, int, int] = (64, 64, 3)
    """Height, width and channels (1 or 3) to which every image is resized."""

    validation_fraction: float = 0.1
    """Fraction of each class that is held out if there is no `validation` folder."""

    random_resized_crop: float = 0.0
    """Minimum area of random crops in training, as a fraction of the image's; 0 disables them."""

    crop_fraction: float = 1.0
    """Side of the central crop otherwise, as a fraction of the largest one."""

    on_corrupt: Literal["stop", "skip"] = "stop"
    """Whether an unreadable image stops the run, or is skipped, counted and logged."""

    class_names: tuple[str, ...] = ()
    """Names of the classes, in the order of the labels; empty: the folders in `train`, sorted."""

    def __post_init__(self):
        check_preprocessing(self)
        check_fraction("validation_fraction", self.validation_fraction)

    @property
    def has_test(self) -> bool:
        """Whether there is a test split; if not, the validation split is used instead."""
        return (Path(self.path) / "test").is_dir()

    @property
    def num_classes(self) -> int:
        """Number of classes; 0 before `resolve` if `class_names` is empty."""
        return len(self.class_names)

    def resolve(self) -> "ImageFolder":
        """Returns the source with its class names.

        Raises:
          ConfigError: the folder is missing, or has fewer than two classes.
        """
        train = Path(self.path) / "train"
        if not train.is_dir():
            raise ConfigError("path", f"missing folder {train}; put the images in {train}/CLASS/")
        folders = tuple(sorted(folder.name for folder in train.iterdir() if folder.is_dir()))
        class_names = self.class_names or folders
        if len(class_names) < 2:
            problem = f"invalid folder {train}: expected two or more class folders, found"
            raise ConfigError("path", f"{problem} {len(class_names)}; put images in {train}/CLASS/")
        return replace(self, class_names=class_names)

    def open(self, split: str) -> Dataset:
        """Opens the examples of "train", "validation" or "test".

        Raises:
          ConfigError: a class has no images, or too few to hold some out.
        """
        if split == "train":
            check_duplicates(self, ("validation", "test") if self.has_test else ("validation",))
        files, labels, chosen = self._split(split)
        dataset = _Files(self, files, labels, augment=split == "train")
        return dataset if chosen is None else Subset(dataset, chosen)

    def contents(self, split: str) -> list[tuple[str, Path]]:
        """Returns the name and the path of each image of a split."""
        files, _, chosen = self._split(split)
        return [(str(f), f) for f in (files if chosen is None else [files[i] for i in chosen])]

    def _split(self, split: str) -> tuple[list[Path], np.ndarray, np.ndarray | None]:
        """Returns the files and labels of a folder, and their positions in the split or None."""
        root = Path(self.path)
        split = fall_back_to_validation(split, self.has_test, self.path)
        if split == "test" or (root / "validation").is_dir():
            return *self._list(root / split), None
        files, labels = self._list(root / "train")
        hold_out = hold_out_stratified(labels, self.validation_fraction)
        return files, labels, hold_out.kept if split == "train" else hold_out.held_out

    def _list(self, folder: Path) -> tuple[list[Path], np.ndarray]:
        """Returns the image files of all classes, and their labels int32 [files]."""
        files, labels = [], []
        for label, name in enumerate(self.class_names):
            images = sorted(p for p in (folder / name).rglob("*") if p.suffix.lower() in SUFFIXES)
            if not images:
                problem = f"no images ({' '.join(SUFFIXES)}) in {folder / name}"
                raise ConfigError("path", f"{problem}; add some or remove the class")
            files += images
            labels += [label] * len(images)
        return files, np.array(labels, np.int32)


class _Files(Dataset):
    """Image files with one label each."""

    def __init__(self, source: ImageFolder, files: list[Path], labels: np.ndarray, augment: bool):
        super().__init__()
        self.source, self.files, self.labels, self.augment = source, files, labels, augment

    def __len__(self) -> int:
        return len(self.files)

    def example(self, index: int, rng: np.random.Generator) -> Example | None:
        try:
            image = load_image(self.files[index], self.source, self.augment, rng)
        except UserError as error:
            if self.source.on_corrupt == "stop":
                remedy = "remove it, or set config.task.source.on_corrupt to 'skip'"
                raise UserError(f"{error}; {remedy}") from None
            self.skip(index, str(error))
            return None
        return {"image": image, "label": self.labels[index]}
