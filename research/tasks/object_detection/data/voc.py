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
    Listing,
    distinct,
)
from research.tasks.object_detection.data.annotated_images import AnnotatedImages
from research.tasks.object_detection.data.voc_xml import ANNOTATIONS, IMAGES, read_voc


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
        check_fraction("test_fraction", self.test_fraction)
        check_fraction("validation_fraction", self.validation_fraction)

    def resolve(self) -> "VOC":
        """With the class names."""
        if self.class_names:
            return self
        listing = self._read(self._image_set("train") if self._has_sets() else self._all())
        return replace(self, class_names=distinct(listing.classes, "path", listing.where))

    def open(self, split: str) -> AnnotatedImages:
        """The images of a split, whose objects are kept in memory."""
        if split == "train":
            has_test = bool(self.test) or not self._has_sets()
            check_duplicates(self, ("validation", "test") if has_test else ("validation",))
        class_names = self.resolve().class_names
        listing = self._read(self._stems(split))
        listing.faults.report(f"{listing.where} ({split})")
        return AnnotatedFiles(Path(self.path) / IMAGES, listing, class_names)

    def contents(self, split: str) -> list[tuple[str, Path]]:
        """Returns the path of each image of a split, as a name and as a file."""
        folder = (Path(self.path) / IMAGES).glob("*")
        paths = {path.stem: path for path in folder if path.suffix.lower() in SUFFIXES}
        found = [paths[stem] for stem in self._stems(split) if stem in paths]
        return [(str(path), path) for path in found]

    def _read(self, stems: Sequence[str]) -> Listing:
        folder = Path(self.path) / IMAGES
        if not folder.is_dir():
            raise ConfigError("path", f"there is no folder {folder}; put the images there")
        return read_voc(Path(self.path), stems)

    def _stems(self, split: str) -> list[str]:
        """What the annotations of a split are called, without their suffix."""
        if self._has_sets():
            split = fall_back_to_validation(split, bool(self.test), self.path)
            if split == "test" or self.validation:
                return self._image_set(split)
            rest = self._image_set("train")
        else:
            stems = self._all()
            kept, held_out = hold_out_random(len(stems), self.test_fraction, "test_fraction")
            if split == "test":
                return [stems[i] for i in held_out]
            rest = [stems[i] for i in kept]
        kept, held_out = hold_out_random(len(rest), self.validation_fraction)
        return [rest[i] for i in (held_out if split == "validation" else kept)]

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
            raise missing_split(split, f"there is no image set {file}; {known}")
        if stems := [line.strip() for line in read_lines(file) if line.strip()]:
            return stems
        raise ConfigError(split, f"{file} names no image; name some")
