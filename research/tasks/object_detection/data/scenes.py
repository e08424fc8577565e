"""Synthetic scenes of handwritten digits over photographs, without a download."""

from dataclasses import dataclass

import numpy as np
from PIL import Image

from research.common.config import renamed_from
from research.common.errors import ConfigError
from research.data.compositing import paste, photograph_crop, random_size
from research.data.splits import SPLITS
from research.tasks.image_classification.data import Digits
from research.tasks.object_detection.boxes import Annotation
from research.tasks.object_detection.data.annotated_images import AnnotatedImages

_MAX_ATTEMPTS = 20  # random positions tried for a digit before it is omitted


@dataclass(frozen=True)
class DigitScenes:
    """Digits of scikit-learn, scaled and overlapping, pasted over crops of its two photographs.

    Training scenes are new in each epoch. Validation and test scenes are fixed and contain digits
    that no training scene contains.
    """

    scene_size: int = 128
    """Height and width of a scene, in pixels."""

    num_digits: tuple[int, int] = renamed_from("digits", default=(1, 8))
    """Minimum and maximum number of digits in a scene."""

    digit_height: tuple[int, int] = (14, 40)
    """Minimum and maximum height of a digit, in pixels."""

    max_overlap: float = renamed_from("overlap", default=0.15)
    """Maximum intersection of two boxes, as a fraction of the smaller one."""

    num_train_scenes: int = renamed_from("train_scenes", default=4000)
    """Number of scenes per training epoch."""

    num_test_scenes: int = renamed_from("test_scenes", default=500)
    """Number of scenes of the test split, and of the validation split."""

    def __post_init__(self):
        if len(self.num_digits) != 2 or not 1 <= self.num_digits[0] <= self.num_digits[1]:
            problem = f"invalid value {self.num_digits}: expected 1 <= minimum <= maximum"
            raise ConfigError("num_digits", problem)
        low, high = self.digit_height
        if not 4 <= low <= high <= self.scene_size:
            expected = f"expected 4 <= minimum <= maximum <= {self.scene_size}"
            problem = f"invalid value {(low, high)}: {expected}"
            raise ConfigError("digit_height", problem)
        if not 0 <= self.max_overlap <= 1:
            problem = f"invalid value {self.max_overlap}: expected a number in [0, 1]"
            raise ConfigError("max_overlap", problem)
        for key in ("num_train_scenes", "num_test_scenes"):
            if getattr(self, key) < 1:
                raise ConfigError(key, f"invalid value {getattr(self, key)}: expected at least 1")

    @property
    def class_names(self) -> tuple[str, ...]:
        """The digits by label."""
        return tuple("0123456789")

    def resolve(self) -> "DigitScenes":
        """Returns the source itself; its class names are constant."""
        return self

    def open(self, split: str) -> AnnotatedImages:
        """Opens the scenes of a split."""
        return _Scenes(self, split)


class _Scenes(AnnotatedImages):
    """Scenes as pure functions of split and index; training scenes, of the random generator."""

    def __init__(self, source: DigitScenes, split: str):
        self.source, self.split = source, split
        dataset = Digits().open(split)
        digits = dataset.batch(np.arange(len(dataset)), (), None)
        self.glyphs, self.labels = digits["image"][..., 0], digits["label"]

    def __len__(self) -> int:
        return (
            self.source.num_train_scenes if self.split == "train" else self.source.num_test_scenes
        )

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
        scene = photograph_crop(self.source.scene_size, rng)
        boxes: list[tuple[int, int, int, int]] = []
        labels: list[int] = []
        low, high = self.source.num_digits
        for _ in range(int(rng.integers(low, high + 1))):
            index = int(rng.integers(len(self.glyphs)))
            ink = random_size(self.glyphs[index], self.source.digit_height, rng)
            if box := self._free_box(ink.shape, boxes, rng):
                paste(scene, ink, box[:2], rng)
                boxes.append(box)
                labels.append(int(self.labels[index]))
        crowd = np.zeros(len(boxes), bool)
        annotation = Annotation(np.array(boxes, np.float32), np.array(labels, np.int32), crowd)
        return Image.fromarray(scene), annotation

    def _free_box(
        self,
        shape: tuple[int, ...],
        boxes: list[tuple[int, int, int, int]],
        rng: np.random.Generator,
    ) -> tuple[int, int, int, int] | None:
        """Samples a box of shape (height, width) with allowed overlaps; None if none is found."""
        height, width = shape
        for _ in range(_MAX_ATTEMPTS):
            x, y = rng.integers(0, np.subtract(self.source.scene_size + 1, (width, height)))
            box = (int(x), int(y), int(x) + width, int(y) + height)
            if all(_overlap(box, other) <= self.source.max_overlap for other in boxes):
                return box
        return None


def _overlap(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> float:
    """Returns the intersection of two boxes, as a fraction of the smaller one."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    smaller = min((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b))
    return max(width, 0) * max(height, 0) / smaller
