"""Images with annotations in Pascal VOC's XML format."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from research.common.config import suggest
from research.common.errors import ConfigError
from research.common.files import read_lines
from research.data.images import SUFFIXES
from research.data.splits import (
    check_duplicates,
    check_fraction,
    fall_back_to_validation,
    hold_out_random,
    missing_split,
)
from research.tasks.object_detection.data.annotated_files import (
    AnnotatedFiles,
    AnnotationTable,
    unique_class_names,
)
from research.tasks.object_detection.data.annotated_images import AnnotatedImages
from research.tasks.object_detection.data.voc_xml import ANNOTATIONS, IMAGES, read_voc


@dataclass(frozen=True)
class VOC:
    """A data set in Pascal VOC's format: `PATH/Annotations/*.xml` and `PATH/JPEGImages`.

    `PATH/ImageSets/Main/NAME.txt` lists the file names of an image set, one per line. Without that
    directory, fixed random fractions are held out for validation and test. Objects marked
    `difficult` are excluded from the loss and from AP.
    """

    path: str
    """Directory of the data set, such as `VOCdevkit/VOC2012`."""

    train: str = "train"
    """Image set of the training split."""

    validation: str = "val"
    """Image set of the validation split; empty: a fraction of `train` is held out."""

    test: str = ""
    """Image set of the test split; empty: the validation split is used instead."""

    test_fraction: float = 0.1
    """Fraction of all images to hold out for testing if there are no image sets."""

    validation_fraction: float = 0.1
    """Fraction of the training images to hold out if `validation` is empty or there are no image
    sets."""

    class_names: tuple[str, ...] = ()
    """Class names by label; empty: those that occur in `train`, in alphabetical order."""

    def __post_init__(self):
        check_fraction("test_fraction", self.test_fraction)
        check_fraction("validation_fraction", self.validation_fraction)

    @property
    def has_test(self) -> bool:
        """Whether there is a test split; if not, the validation split is used instead."""
        return bool(self.test) or not self._has_image_sets()

    def resolve(self) -> "VOC":
        """Returns the source with its class names."""
        if self.class_names:
            return self
        names = self._image_set("train") if self._has_image_sets() else self._all_names()
        table = self._read(names)
        return replace(self, class_names=unique_class_names(table.classes, "path", table.source))

    def open(self, split: str) -> AnnotatedImages:
        """Opens a split; its annotations are kept in memory."""
        if split == "train":
            check_duplicates(self, ("validation", "test") if self.has_test else ("validation",))
        class_names = self.resolve().class_names
        table = self._read(self._names(split))
        table.errors.log(f"{table.source} ({split})")
        return AnnotatedFiles(Path(self.path) / IMAGES, table, class_names)

    def contents(self, split: str) -> list[tuple[str, Path]]:
        """Returns the path of each image of a split, as a name and as a file."""
        files = (Path(self.path) / IMAGES).glob("*")
        paths = {path.stem: path for path in files if path.suffix.lower() in SUFFIXES}
        return [(str(paths[name]), paths[name]) for name in self._names(split) if name in paths]

    def _read(self, names: Sequence[str]) -> AnnotationTable:
        directory = Path(self.path) / IMAGES
        if not directory.is_dir():
            raise ConfigError("path", f"missing directory {directory}: expected the images")
        return read_voc(Path(self.path), names)

    def _names(self, split: str) -> list[str]:
        """Returns the names of the annotation files of a split, without suffix."""
        if self._has_image_sets():
            split = fall_back_to_validation(split, self.has_test, self.path)
            if split == "test" or self.validation:
                return self._image_set(split)
            names = self._image_set("train")
        else:
            names, test = _hold_out(self._all_names(), self.test_fraction, "test_fraction")
            if split == "test":
                return test
        kept, held_out = _hold_out(names, self.validation_fraction, "validation_fraction")
        return held_out if split == "validation" else kept

    def _has_image_sets(self) -> bool:
        return (Path(self.path) / "ImageSets" / "Main").is_dir()

    def _all_names(self) -> list[str]:
        directory = Path(self.path) / ANNOTATIONS
        if names := sorted(file.stem for file in directory.glob("*.xml")):
            return names
        raise ConfigError("path", f"missing annotations: expected XML files in {directory}")

    def _image_set(self, split: str) -> list[str]:
        directory, name = Path(self.path) / "ImageSets" / "Main", getattr(self, split)
        file = directory / f"{name}.txt"
        if not file.is_file():
            hint = suggest(name, (other.stem for other in directory.glob("*.txt")))
            raise missing_split(split, f"missing image set {file}; {hint}")
        if names := [line.strip() for line in read_lines(file) if line.strip()]:
            return names
        raise missing_split(split, f"empty image set {file}; list the names of its images")


def _hold_out(names: Sequence[str], fraction: float, key: str) -> tuple[list[str], list[str]]:
    """Returns the remaining names and a random fraction of held-out ones."""
    kept, held_out = hold_out_random(len(names), fraction, key)
    return [names[i] for i in kept], [names[i] for i in held_out]
