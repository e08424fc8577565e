"""Scenes of handwritten digits over photographs, made on the fly; nothing is downloaded."""

from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image, ImageOps
from sklearn.datasets import load_sample_image

from research.common.errors import ConfigError
from research.data.splits import SPLITS
from research.tasks.image_classification.data import Digits
from research.tasks.object_detection.boxes import Annotation
from research.tasks.object_detection.data.annotated_images import AnnotatedImages

_TRIES = 20  # places tried for a digit before it is given up
_INK = 64  # of 255: what is fainter is not seen, and lies outside the box
_OPAQUE = 160  # of 255: from there on nothing shines through, as through ink
_CONTRAST = 80  # least difference, of 255, of a digit's brightness to that of what it lies on


@dataclass(frozen=True)
class DigitScenes:
    """Digits of scikit-learn pasted, scaled and occluded, over crops of its two photographs.

    Training scenes are new in each epoch. Those of the other splits are the same every time and
    made of digits that no training scene has.
    """

    scene_size: int = 128
    """Height and width of a scene, in pixels."""

    digits: tuple[int, int] = (1, 8)
    """The least and the greatest number of digits in a scene."""

    digit_height: tuple[int, int] = (14, 40)
    """The least and the greatest height of a digit, in pixels."""

    overlap: float = 0.15
    """The greatest part of the smaller of two boxes that the other may cover."""

    train_scenes: int = 4000
    """The scenes of an epoch."""

    test_scenes: int = 500
    """The scenes of the test split; validation has as many."""

    def __post_init__(self):
        if len(self.digits) != 2 or not 1 <= self.digits[0] <= self.digits[1]:
            raise ConfigError("digits", f"must be (least, greatest), is {self.digits}")
        low, high = self.digit_height
        if not 4 <= low <= high <= self.scene_size:
            problem = f"must be (least, greatest) of 4 to {self.scene_size}, is {(low, high)}"
            raise ConfigError("digit_height", problem)
        if not 0 <= self.overlap <= 1:
            raise ConfigError("overlap", f"must lie in [0, 1], is {self.overlap}")
        for key in ("train_scenes", "test_scenes"):
            if getattr(self, key) < 1:
                raise ConfigError(key, f"must be at least 1, is {getattr(self, key)}")

    @property
    def class_names(self) -> tuple[str, ...]:
        """By label."""
        return tuple("0123456789")

    def resolve(self) -> "DigitScenes":
        """There is nothing to find out."""
        return self

    def open(self, split: str) -> AnnotatedImages:
        """The scenes of a split."""
        return _Scenes(self, split)


class _Scenes(AnnotatedImages):
    """A scene is a function of the split and the index; in training, of the generator."""

    def __init__(self, source: DigitScenes, split: str):
        self.source, self.split = source, split
        dataset = Digits().open(split)
        digits = dataset.batch(np.arange(len(dataset)), (), None)
        self.glyphs, self.labels = digits["image"][..., 0], digits["label"]

    def __len__(self) -> int:
        return self.source.train_scenes if self.split == "train" else self.source.test_scenes

    def image(self, index: int) -> Image.Image:
        return self._fixed(index)[0]

    def annotation(self, index: int) -> Annotation:
        return self._fixed(index)[1]

    def load(
        self, index: int, rng: np.random.Generator | None = None
    ) -> tuple[Image.Image, Annotation]:
        return self._scene(rng) if rng and self.split == "train" else self._fixed(index)

    def _fixed(self, index: int) -> tuple[Image.Image, Annotation]:
        return self._scene(np.random.default_rng((SPLITS.index(self.split), index)))

    def _scene(self, rng: np.random.Generator) -> tuple[Image.Image, Annotation]:
        scene = _background(self.source.scene_size, rng)
        boxes: list[tuple[int, int, int, int]] = []
        labels: list[int] = []
        low, high = self.source.digits
        for _ in range(int(rng.integers(low, high + 1))):
            chosen = int(rng.integers(len(self.glyphs)))
            ink = _ink(self.glyphs[chosen], self.source, rng)
            if place := self._free_place(ink.shape, boxes, rng):
                _paste(scene, ink, place, rng)
                boxes.append(place)
                labels.append(int(self.labels[chosen]))
        found = np.array(boxes, np.float32), np.array(labels, np.int32)
        return Image.fromarray(scene), Annotation(*found, np.zeros(len(boxes), bool))

    def _free_place(
        self,
        shape: tuple[int, ...],
        boxes: list[tuple[int, int, int, int]],
        rng: np.random.Generator,
    ) -> tuple[int, int, int, int] | None:
        """A box for ink of that height and width that covers the others little enough."""
        height, width = shape
        for _ in range(_TRIES):
            x, y = rng.integers(0, np.subtract(self.source.scene_size + 1, (width, height)))
            box = (int(x), int(y), int(x) + width, int(y) + height)
            if all(_covered(box, other) <= self.source.overlap for other in boxes):
                return box
        return None


def _background(size: int, rng: np.random.Generator) -> np.ndarray:
    """A part of a photograph at a random scale, perhaps mirrored: uint8 [size, size, 3]."""
    photograph = _photographs()[int(rng.integers(2))]
    largest = min(photograph.size)
    side = int(rng.integers(min(size // 2, largest), largest + 1))
    x, y = rng.integers(0, np.subtract(photograph.size, side) + 1)
    box = (x, y, x + side, y + side)
    part = photograph.resize((size, size), Image.Resampling.BILINEAR, box=box, reducing_gap=2.0)
    return np.array(ImageOps.mirror(part) if rng.random() < 0.5 else part)


def _ink(glyph: np.ndarray, source: DigitScenes, rng: np.random.Generator) -> np.ndarray:
    """A glyph [8, 8] uint8 at a random height, cut to what is seen of it: uint8 [height, width]."""
    height = int(rng.integers(source.digit_height[0], source.digit_height[1] + 1))
    large = np.asarray(Image.fromarray(glyph).resize((height, height), Image.Resampling.BICUBIC))
    rows, columns = np.nonzero(large >= _INK)
    top, bottom, left, right = np.min(rows), np.max(rows), np.min(columns), np.max(columns)
    return large[top : bottom + 1, left : right + 1]


def _paste(
    scene: np.ndarray,
    ink: np.ndarray,
    box: tuple[int, int, int, int],
    rng: np.random.Generator,
) -> None:
    """Writes ink into the scene, in a colour that stands out."""
    x_min, y_min, x_max, y_max = box
    below = scene[y_min:y_max, x_min:x_max]
    brightness, colour = below.mean(), rng.integers(0, 256, size=3)
    while abs(colour.mean() - brightness) < _CONTRAST:
        colour = rng.integers(0, 256, size=3)
    opacity = np.minimum(ink[..., None] / _OPAQUE, 1)
    below[...] = np.round(opacity * colour + (1 - opacity) * below)


def _covered(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> float:
    """The part of the smaller box that lies in the other."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    smaller = min((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b))
    return max(width, 0) * max(height, 0) / smaller


@cache
def _photographs() -> tuple[Image.Image, ...]:
    return tuple(Image.fromarray(load_sample_image(name)) for name in ("china.jpg", "flower.jpg"))
