"""Sources of labelled images. Each returns uint8 images of one size and int32 labels."""

from research.tasks.image_classification.data.digits import DigitPhotographs, Digits
from research.tasks.image_classification.data.image_folder import ImageFolder
from research.tasks.image_classification.data.tfds import TFDS

__all__ = ["TFDS", "DigitPhotographs", "Digits", "ImageFolder"]
