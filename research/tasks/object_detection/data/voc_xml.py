"""Annotations in the form of Pascal VOC: an XML file for each image.

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
from research.tasks.object_detection.data.annotated_files import Faults, Listing

ANNOTATIONS, IMAGES = "Annotations", "JPEGImages"  # folders


class _Object(NamedTuple):
    """What an XML file says of an object."""

    name: str
    box: tuple[float, float, float, float]
    difficult: bool


def read_voc(root: Path, stems: Sequence[str]) -> Listing:
    """What `root/Annotations/STEM.xml` say of images in `root/JPEGImages`.

    The classes are those that occur, in alphabetical order.

    Args:
      root: the folder that holds both.
      stems: of the images, in the order of the listing.

    Raises:
      UserError: a file cannot be read, or lacks something; names it.
    """
    annotations, folder = root / ANNOTATIONS, root / IMAGES
    images = sorted(file for file in folder.iterdir() if file.suffix.lower() in SUFFIXES)
    by_stem = {file.stem: file.name for file in images}
    files: list[str] = []
    sizes: list[tuple[int, int]] = []
    found: list[tuple[int, _Object]] = []
    for owner, stem in enumerate(stems):
        path = annotations / f"{stem}.xml"
        tree = _parse(path)
        named = (tree.findtext("filename") or "").strip()
        # The image sets name images; <filename> may be of another time or computer.
        files.append(by_stem.get(stem) or named or stem)
        sizes.append(_size(tree, path, folder / files[-1]))
        found += [(owner, _object(element, path)) for element in tree.findall("object")]
    owners = np.array([owner for owner, _ in found], np.int32)
    classes, objects = _packed([one for _, one in found])
    limits = np.array(sizes, np.int32)
    listing = Listing(str(annotations), classes, files, limits, owners, objects, Faults())
    return listing.repaired(lambda i: files[owners[i]])


def _packed(found: Sequence[_Object]) -> tuple[tuple[str, ...], Annotation]:
    """The classes, and the objects as arrays."""
    classes = sorted({one.name for one in found})
    label_of = {name: label for label, name in enumerate(classes)}
    boxes = np.array([one.box for one in found], np.float32).reshape(-1, 4)
    labels = np.array([label_of[one.name] for one in found], np.int32)
    crowd = np.array([one.difficult for one in found], bool)
    return tuple(classes), Annotation(boxes, labels, crowd)


def _parse(path: Path) -> ElementTree.Element:
    try:
        root = ElementTree.parse(path).getroot()
    except OSError as error:
        remedy = "restore it, or take it out of the image set"
        raise UserError(f"{path} cannot be read ({error.strerror}); {remedy}") from None
    except (ElementTree.ParseError, LookupError, ValueError) as error:  # the last two: encodings
        raise UserError(f"{path} is not XML ({error}); correct it") from None
    if root.tag != "annotation":
        raise UserError(f"{path} must hold an <annotation>, holds a <{root.tag}>; correct it")
    return root


def _size(tree: ElementTree.Element, path: Path, image: Path) -> tuple[int, int]:
    """Width and height; where the annotation has none, or zeros, those of the image file."""
    size = tree.find("size")
    if size is not None:
        width, height = (_number(size, tag, path) for tag in ("width", "height"))
        if width >= 1 and height >= 1:
            return int(width), int(height)
    try:
        return image_size(image)
    except UserError:
        return 0, 0  # the image will be skipped, whatever its boxes are


def _object(element: ElementTree.Element, path: Path) -> _Object:
    bounds = element.find("bndbox")
    if bounds is None:
        raise UserError(f"{path}: an <object> has no <bndbox>; add it")
    x_min, y_min, x_max, y_max = (
        _number(bounds, tag, path) for tag in ("xmin", "ymin", "xmax", "ymax")
    )
    # Pixels are counted from 1, and the last one lies in the box.
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
    raise UserError(f"{path}: <{tag}> must be a number, is '{text}'; correct it")


def _text(element: ElementTree.Element, tag: str, path: Path) -> str:
    text = (element.findtext(tag) or "").strip()
    if not text:
        raise UserError(f"{path}: <{element.tag}> has no <{tag}>; add it")
    return text
