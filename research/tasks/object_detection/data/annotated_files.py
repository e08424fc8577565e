"""Image files and the objects in them, which are known beforehand and kept in arrays."""

import logging
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from research.common.config import suggest
from research.common.errors import ConfigError, UserError
from research.data.images import decode
from research.tasks.object_detection.boxes import Annotation, named, repaired
from research.tasks.object_detection.data.annotated_images import AnnotatedImages

log = logging.getLogger(__name__)


class Faults:
    """What is wrong with annotations and does not stop a run: the count and first case by kind."""

    def __init__(self) -> None:
        self._found: dict[str, tuple[int, str]] = {}

    def note(self, kind: str, case: str, count: int = 1) -> None:
        """Counts a fault, or several of a kind; `case` names the first of them."""
        known, first = self._found.get(kind, (0, case))
        self._found[kind] = (known + count, first)

    def report(self, where: str) -> None:
        """One warning that has all kinds, the first time; none where nothing is wrong."""
        if self._found:
            kinds = [f"{kind}: {n}, the first {case}" for kind, (n, case) in self._found.items()]
            _warn(f"{where}: {'; '.join(kinds)}")


@cache  # a run opens some splits several times
def _warn(message: str) -> None:
    log.warning(message)


class Listing(NamedTuple):
    """What annotation files say, in arrays: 25 bytes for each of COCO's 860,000 objects."""

    where: str  # what messages call these files
    classes: tuple[str, ...]  # what the labels of `objects` are positions in
    files: list[str]  # by image; within the folder of the images
    sizes: np.ndarray  # [images, 2] int32: width and height in pixels
    owners: np.ndarray  # [objects] int32: the position of each object's image
    objects: Annotation  # those of all images
    faults: Faults

    def repaired(self, name: Callable[[int], str]) -> "Listing":
        """With boxes that all have an area within their image; what was wrong is noted as a fault.

        Args:
          name: what messages call an object, by its position.
        """
        boxes, limits = self.objects.boxes.copy(), self.sizes[self.owners]
        low, high = boxes[:, :2], boxes[:, 2:]
        # What needs no repair is seen of all at once: COCO's boxes one by one would take 20 s.
        kept = ((low >= 0) & (low < high) & (high <= limits)).all(axis=1)
        for i in np.flatnonzero(~kept).tolist():
            width, height = limits[i].tolist()
            one, faults = repaired(self.objects.select(np.array([i])), width, height)
            for kind, _ in faults:
                self.faults.note(kind, f"{named(boxes[i])} of {name(i)}")
            if len(one.boxes):
                boxes[i], kept[i] = one.boxes[0], True
        objects = self.objects._replace(boxes=boxes).select(kept)
        return self._replace(objects=objects, owners=self.owners[kept])


class AnnotatedFiles(AnnotatedImages):
    """The images of a listing.

    Args:
      folder: what the listing's files lie in.
      listing: the files and their objects.
      class_names: what labels become positions in.

    Raises:
      UserError: there are objects of other classes; counts them, and names the first.
    """

    def __init__(self, folder: Path, listing: Listing, class_names: tuple[str, ...]):
        self.folder, self.files, self.sizes = folder, listing.files, listing.sizes
        objects = listing.objects._replace(labels=_relabelled(listing, class_names))
        order = np.argsort(listing.owners, kind="stable")
        self.objects = objects.select(order)
        # Image i has the objects from starts[i] to starts[i + 1].
        self.starts = np.searchsorted(listing.owners[order], np.arange(len(self.files) + 1))

    def __len__(self) -> int:
        return len(self.files)

    def image(self, index: int) -> Image.Image:
        path = self.folder / self.files[index]
        image, (width, height) = decode(path, 3), self.sizes[index].tolist()
        if image.size != (width, height):
            raise UserError(
                f"{path}: has {image.width} x {image.height} pixels, "
                f"but was annotated with {width} x {height}; annotate the image as it is"
            )
        return image

    def annotation(self, index: int) -> Annotation:
        return self.objects.select(np.arange(self.starts[index], self.starts[index + 1]))


def distinct(classes: Sequence[str], key: str, where: Path | str) -> tuple[str, ...]:
    """The names of classes, of which there must be some."""
    if not classes:
        raise ConfigError(key, f"{where} has no class; annotate objects, or set class_names")
    return tuple(dict.fromkeys(classes))


def _relabelled(listing: Listing, class_names: tuple[str, ...]) -> np.ndarray:
    """The labels [objects] int32 of a listing as positions in the class names."""
    label_of = {name: label for label, name in enumerate(class_names)}
    table = np.array([label_of.get(name, -1) for name in listing.classes], np.int32)
    labels = table[listing.objects.labels]
    unknown = np.flatnonzero(labels < 0)
    if len(unknown):
        name = listing.classes[listing.objects.labels[unknown[0]]]
        file = listing.files[listing.owners[unknown[0]]]
        raise UserError(
            f"{listing.where}: objects of a class that class_names has not: {len(unknown)}, "
            f"the first a '{name}' in {file} ({suggest(name, class_names)}); "
            "correct it or add it to class_names"
        )
    return labels
