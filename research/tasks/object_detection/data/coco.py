"""Images with annotations in COCO's JSON format."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from research.common.errors import ConfigError
from research.data.splits import (
    check_duplicates,
    check_fraction,
    fall_back_to_validation,
    hold_out_random,
    missing_split,
)
from research.tasks.object_detection.data.annotated_files import (
    AnnotatedFiles,
    distinct,
)
from research.tasks.object_detection.data.annotated_images import AnnotatedImages, Part
from research.tasks.object_detection.data.coco_json import read_coco


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
        check_fraction("validation_fraction", self.validation_fraction)

    def resolve(self) -> "COCO":
        """With the class names."""
        if self.class_names:
            return self
        file = self._file("train")
        return replace(self, class_names=distinct(read_coco(file).classes, "train", file))

    def open(self, split: str) -> AnnotatedImages:
        """The images of a split, whose objects are kept in memory."""
        if split == "train":
            check_duplicates(self, ("validation", "test") if self.test else ("validation",))
        files, indices = self._select(split)
        return files if indices is None else Part(files, indices.tolist())

    def contents(self, split: str) -> list[tuple[str, Path]]:
        """Returns the path of each image of a split, as a name and as a file."""
        files, indices = self._select(split)
        paths = [files.folder / file for file in files.files]
        chosen = paths if indices is None else [paths[i] for i in indices]
        return [(str(path), path) for path in chosen]

    def _select(self, split: str) -> tuple[AnnotatedFiles, np.ndarray | None]:
        """Returns the images of a file, and the positions of those in the split; None: all."""
        split = fall_back_to_validation(split, bool(self.test), self.path)
        if split == "test" or self.validation:
            return self._load(split), None
        files = self._load("train")
        kept, held_out = hold_out_random(len(files), self.validation_fraction)
        return files, held_out if split == "validation" else kept

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
            raise missing_split(split, problem)
        return file
