"""Handwritten digits from scikit-learn."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image

from research.common.errors import ConfigError
from research.data.compositing import paste, photograph_crop, random_size
from research.data.dataset import ArrayDataset, Dataset, Example
from research.data.images import drawing_on_black
from research.data.splits import SPLITS, HoldOut, check_fraction, hold_out_last, hold_out_stratified

DIGITS = tuple("0123456789")


@dataclass(frozen=True)
class Digits:
    """1,797 handwritten digits of 8x8 grey pixels, from scikit-learn; no download.

    The test set of "Optical Recognition of Handwritten Digits" (Alpaydin and Kaynak 1998).
    """

    classes: tuple[str, ...] = DIGITS
    """The digits to classify, in the order of the labels."""

    test_fraction: float = 0.2
    """Fraction of the images in the test split, the same images for every seed."""

    split: Literal["stratified", "last"] = "stratified"
    """How images are held out: "stratified", a random part of each class; "last", the last images,
    by other writers, as in scikit-learn's example."""

    validation_fraction: float = 0.1
    """Fraction of the images outside the test split in the validation split."""

    def __post_init__(self):
        for key in ("test_fraction", "validation_fraction"):
            check_fraction(key, getattr(self, key))
        if len(set(self.classes)) < max(len(self.classes), 2) or set(self.classes) - set(DIGITS):
            problem = f"invalid value {self.classes}: expected two or more different digits"
            raise ConfigError("classes", f'{problem}, such as ("0", "1")')

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels."""
        return (8, 8, 1)

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.classes)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the labels."""
        return self.classes

    def resolve(self) -> "Digits":
        """Returns the source unchanged: its class names are known."""
        return self

    def open(self, split: str) -> Dataset:
        """Opens the examples of "train", "validation" or "test"."""
        return self._plain(split)

    def normalize(self, image: Image.Image) -> Image.Image:
        """Returns a grey image in the form of the data set: white on black, filled by the digit.

        An image of the size of the data set's has this form already.
        """
        height, width, _ = self.image_shape
        return image if image.size == (width, height) else drawing_on_black(image)

    def _plain(self, split: str) -> ArrayDataset:
        from sklearn.datasets import load_digits  # takes a second to import

        digits = load_digits()
        images = np.round(digits.images * (255 / 16)).astype(np.uint8)[..., None]
        labels = digits.target.astype(np.int32)
        rest, test = self._hold_out(labels, "test_fraction")
        train, validation = (rest[i] for i in self._hold_out(labels[rest], "validation_fraction"))
        indices = {"train": train, "validation": validation, "test": test}[split]
        # The splits of each digit do not depend on the selection.
        values = np.array(self.classes, np.int32)
        indices = indices[np.isin(labels[indices], values)]
        label = (labels[indices, None] == values).argmax(-1).astype(np.int32)
        return ArrayDataset(image=images[indices], label=label)

    def _hold_out(self, labels: np.ndarray, key: str) -> HoldOut:
        if self.split == "stratified":
            return hold_out_stratified(labels, getattr(self, key), key)
        return hold_out_last(len(labels), getattr(self, key), key)


@dataclass(frozen=True)
class DigitPhotographs(Digits):
    """The same digits in colour over crops of scikit-learn's two photographs, one in each image.

    Training images are composed anew in each epoch; those of other splits are fixed.
    """

    image_size: int = 16
    """Height and width of an image, in pixels."""

    digit_height: tuple[int, int] = (12, 15)
    """Minimum and maximum height of a digit, in pixels."""

    def __post_init__(self):
        super().__post_init__()
        low, high = self.digit_height
        if not 4 <= low <= high <= self.image_size:
            problem = f"invalid value {(low, high)}: expected 4 <= minimum <= maximum <= "
            raise ConfigError("digit_height", f"{problem}image_size={self.image_size}")

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels."""
        return (self.image_size, self.image_size, 3)

    def normalize(self, image: Image.Image) -> Image.Image:
        """Returns the image unchanged: the data set has any colours and backgrounds."""
        return image

    def open(self, split: str) -> Dataset:
        """Opens the examples of "train", "validation" or "test"."""
        return _Composed(self._plain(split), self, split)


class _Composed(Dataset):
    """Digits over photographs; training images depend on the random generator."""

    def __init__(self, digits: ArrayDataset, source: DigitPhotographs, split: str):
        super().__init__()
        self.digits, self.source, self.split = digits, source, split

    def __len__(self) -> int:
        return len(self.digits)

    def example(self, index: int, rng: np.random.Generator) -> Example:
        digit = self.digits.example(index, rng)
        if self.split != "train":
            rng = np.random.default_rng((SPLITS.index(self.split), index))
        size = self.source.image_size
        image = photograph_crop(size, rng)
        ink = random_size(digit["image"][..., 0], self.source.digit_height, rng)
        x, y = (int(rng.integers(size + 1 - side)) for side in ink.shape[::-1])
        paste(image, ink, (x, y), rng)
        return {"image": image, "label": digit["label"]}
