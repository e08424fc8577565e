"""Reader of Pascal VOC annotations: an XML file for each image.

http://host.robots.ox.ac.uk/pascal/VOC/voc2012/htmldoc/devkit_doc.html
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import numpy as np

from research.common.errors import UserError
from research.data.images import SUFFIXES, image_size
from research.tasks.object_detection.boxes import Annotation
from research.tasks.object_detection.data.annotated_files import AnnotationErrors, AnnotationTable

ANNOTATIONS, IMAGES = "Annotations", "JPEGImages"  # directories


class _Object(NamedTuple):
    """An <object> element."""

    name: str
    box: tuple[float, float, float, float]
    difficult: bool


def read_voc(root: Path, names: Sequence[str]) -> AnnotationTable:
    """Reads `root/Annotations/NAME.xml`, the annotations of images in `root/JPEGImages`.

    The classes are those that occur, in alphabetical order.

    Args:
      root: directory of the data set.
      names: names of the annotation files, without suffix.

    Raises:
      UserError: a file cannot be read or is incomplete.
    """
    annotations, directory = root / ANNOTATIONS, root / IMAGES
    images = sorted(file for file in directory.iterdir() if file.suffix.lower() in SUFFIXES)
    file_of = {file.stem: file.name for file in images}
    files: list[str] = []
    sizes: list[tuple[int, int]] = []
    objects: list[tuple[int, _Object]] = []
    for index, name in enumerate(names):
        path = annotations / f"{name}.xml"
        tree = _parse(path)
        # Image sets list images by name; <filename> may be outdated, so it comes second.
        file = file_of.get(name) or (tree.findtext("filename") or "").strip() or name
        files.append(file)
        sizes.append(_size(tree, path, directory / file))
        objects += [(index, _object(element, path)) for element in tree.findall("object")]
    image_index = np.array([index for index, _ in objects], np.int32)
    classes, annotation = _to_arrays([one for _, one in objects])
    table = AnnotationTable(
        source=str(annotations),
        classes=classes,
        files=files,
        sizes=np.array(sizes, np.int32),
        image_index=image_index,
        objects=annotation,
        errors=AnnotationErrors(),
    )
    return table.sanitized(lambda i: files[image_index[i]])


def _to_arrays(objects: Sequence[_Object]) -> tuple[tuple[str, ...], Annotation]:
    """Returns the class names, and the objects as arrays."""
    classes = sorted({one.name for one in objects})
    label_of = {name: label for label, name in enumerate(classes)}
    boxes = np.array([one.box for one in objects], np.float32).reshape(-1, 4)
    labels = np.array([label_of[one.name] for one in objects], np.int32)
    crowd = np.array([one.difficult for one in objects], bool)
    return tuple(classes), Annotation(boxes, labels, crowd)


def _parse(path: Path) -> ElementTree.Element:
    try:
        root = ElementTree.parse(path).getroot()
    except OSError as error:
        remedy = "restore it, or remove it from the image set"
        raise UserError(f"cannot read {path}: {error.strerror}; {remedy}") from None
    except (ElementTree.ParseError, LookupError, ValueError) as error:  # the last two: encodings
        raise UserError(f"invalid XML in {path}: {error}; correct it") from None
    if root.tag != "annotation":
        raise UserError(f"invalid root <{root.tag}> of {path}: expected <annotation>")
    return root


def _size(tree: ElementTree.Element, path: Path, image: Path) -> tuple[int, int]:
    """Returns the width and height in the annotation, or of the image file if they are missing."""
    size = tree.find("size")
    if size is not None:
        width, height = (_number(size, tag, path) for tag in ("width", "height"))
        if width >= 1 and height >= 1:
            return int(width), int(height)
    try:
        return image_size(image)
    except UserError:
        return 0, 0  # the image will be skipped, with all its boxes


def _object(element: ElementTree.Element, path: Path) -> _Object:
    bounds = element.find("bndbox")
    if bounds is None:
        raise UserError(f"missing <bndbox> of an <object> in {path}; add it")
    x_min, y_min, x_max, y_max = (
        _number(bounds, tag, path) for tag in ("xmin", "ymin", "xmax", "ymax")
    )
    # VOC's pixel indices are 1-based, and the last pixel belongs to the box.
    box = (x_min - 1, y_min - 1, x_max, y_max)
    difficult = (element.findtext("difficult") or "").strip() == "1"
    return _Object(_text(element, "name", path), box, difficult)


def _number(element: ElementTree.Element, tag: str, path: Path) -> float:
    text = _text(element, tag, path)
    try:
        value = float(text)
        if not math.isinf(value):
            return value
    except ValueError:
        pass
    raise UserError(f"invalid <{tag}> '{text}' in {path}: expected a number")


def _text(element: ElementTree.Element, tag: str, path: Path) -> str:
    text = (element.findtext(tag) or "").strip()
    if not text:
        raise UserError(f"missing <{tag}> of <{element.tag}> in {path}; add it")
    return text
