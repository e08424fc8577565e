"""Images with annotations in COCO's JSON format."""

from dataclasses import dataclass, replace
from pathlib import Path

from research.data.splits import (
    check_duplicates,
    check_fraction,
    fall_back_to_validation,
    hold_out_random,
    missing_split,
)
from research.tasks.object_detection.data.annotated_files import AnnotatedFiles, unique_class_names
from research.tasks.object_detection.data.annotated_images import AnnotatedImages, AnnotatedSubset
from research.tasks.object_detection.data.coco_json import read_coco


@dataclass(frozen=True)
class COCO:
    """A data set in COCO's format: a JSON file and an image directory for each split.

    https://cocodataset.org/#format-data. Objects with `iscrowd` are excluded from the loss and from
    AP.
    """

    path: str
    """Directory that all other paths are relative to."""

    train: str = "annotations/instances_train2017.json"
    """Annotation file of the training split."""

    validation: str = "annotations/instances_val2017.json"
    """Annotation file of the validation split; empty: a fraction of `train` is held out."""

    test: str = ""
    """Annotation file of the test split; empty: the validation split is used instead."""

    train_images: str = "train2017"
    """Image directory of `train`."""

    validation_images: str = "val2017"
    """Image directory of `validation`."""

    test_images: str = "test2017"
    """Image directory of `test`."""

    validation_fraction: float = 0.1
    """Fraction of the training images to hold out if `validation` is empty."""

    class_names: tuple[str, ...] = ()
    """Class names by label; empty: the categories of `train` in the order of their ids."""

    def __post_init__(self):
        check_fraction("validation_fraction", self.validation_fraction)

    @property
    def has_test(self) -> bool:
        """Whether there is a test split; if not, the validation split is used instead."""
        return bool(self.test)

    def resolve(self) -> "COCO":
        """Returns the source with its class names."""
        if self.class_names:
            return self
        file = self._file("train")
        class_names = unique_class_names(read_coco(file).classes, "train", file)
        return replace(self, class_names=class_names)

    def open(self, split: str) -> AnnotatedImages:
        """Opens a split; its annotations are kept in memory."""
        if split == "train":
            check_duplicates(self, ("validation", "test") if self.has_test else ("validation",))
        images, indices = self._split(split)
        return images if indices is None else AnnotatedSubset(images, indices)

    def contents(self, split: str) -> list[tuple[str, Path]]:
        """Returns the path of each image of a split, as a name and as a file."""
        images, indices = self._split(split)
        paths = map(images.path, range(len(images)) if indices is None else indices)
        return [(str(path), path) for path in paths]

    def _split(self, split: str) -> tuple[AnnotatedFiles, list[int] | None]:
        """Returns the images of a file, and the indices of a split; None for all."""
        split = fall_back_to_validation(split, self.has_test, self.path)
        if split == "test" or self.validation:
            return self._load(split), None
        images = self._load("train")
        kept, held_out = hold_out_random(len(images), self.validation_fraction)
        return images, (held_out if split == "validation" else kept).tolist()

    def _load(self, split: str) -> AnnotatedFiles:
        directories = {
            "train": self.train_images,
            "validation": self.validation_images,
            "test": self.test_images,
        }
        directory = Path(self.path) / directories[split]
        if not directory.is_dir():
            problem = f"missing directory {directory}: expected the images of the {split} split"
            raise missing_split(split, problem, f"{split}_images")
        table = read_coco(self._file(split))
        table.errors.log(table.source)
        return AnnotatedFiles(directory, table, self.resolve().class_names)

    def _file(self, split: str) -> Path:
        file = Path(self.path) / getattr(self, split)
        if not file.is_file():
            remedy = "set its path" if split == "train" else f"set its path, or leave {split} empty"
            raise missing_split(split, f"missing annotation file {file}; {remedy}")
        return file
