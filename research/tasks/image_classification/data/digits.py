"""Handwritten digits from scikit-learn."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from research.data.dataset import ArrayDataset, Dataset
from research.data.splits import HoldOut, check_fraction, hold_out_last, hold_out_stratified


@dataclass(frozen=True)
class Digits:
    """1,797 handwritten digits of 8x8 grey pixels, from scikit-learn; no download.

    The test set of "Optical Recognition of Handwritten Digits" (Alpaydin and Kaynak 1998).
    """

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

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels."""
        return (8, 8, 1)

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return 10

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the labels."""
        return tuple("0123456789")

    def resolve(self) -> "Digits":
        """Returns the source unchanged: its class names are known."""
        return self

    def open(self, split: str) -> Dataset:
        """Opens the examples of "train", "validation" or "test"."""
        from sklearn.datasets import load_digits  # takes a second to import

        digits = load_digits()
        images = np.round(digits.images * (255 / 16)).astype(np.uint8)[..., None]
        labels = digits.target.astype(np.int32)
        rest, test = self._hold_out(labels, "test_fraction")
        train, validation = (rest[i] for i in self._hold_out(labels[rest], "validation_fraction"))
        indices = {"train": train, "validation": validation, "test": test}[split]
        return ArrayDataset(image=images[indices], label=labels[indices])

    def _hold_out(self, labels: np.ndarray, key: str) -> HoldOut:
        if self.split == "stratified":
            return hold_out_stratified(labels, getattr(self, key), key)
        return hold_out_last(len(labels), getattr(self, key), key)
