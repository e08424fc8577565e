"""Predicts the classes of image files."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from research.data.dataset import ArrayDataset, Dataset
from research.data.images import decode, resized_center_crop, to_array
from research.predictor import Predictor
from research.tasks.image_classification.data import Digits
from research.tasks.image_classification.task import ImageClassification


class ImageClassificationPredictor(Predictor):
    """Predicts the class of an image file, and its probability."""

    def __init__(self, task: ImageClassification):
        self.task = task

    def preprocess(self, item: str) -> Dataset:
        """Loads an image file, cropped and resized as in evaluation; drawings are normalised."""
        source = self.task.source
        height, width, channels = source.image_shape
        image = decode(Path(item), channels)
        if isinstance(source, Digits):
            image = source.normalize(image)
        crop_fraction = getattr(source, "crop_fraction", 1.0)
        pixels = to_array(resized_center_crop(image, height, width, crop_fraction))
        return ArrayDataset(image=pixels[None])

    def postprocess(self, predictions: Sequence[Mapping[str, np.ndarray]]) -> dict[str, Any]:
        """Returns the most probable class, its probability, and the probabilities of all."""
        names, probabilities = self.task.class_names, predictions[0]["probability"].tolist()
        best = int(np.argmax(probabilities))
        return {
            "class": names[best],
            "probability": probabilities[best],
            "probabilities": dict(zip(names, probabilities, strict=True)),
        }

    def to_rows(self, result: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Returns one row, with the next two classes instead of all."""
        row = dict(result)
        ranked = sorted(row.pop("probabilities").items(), key=lambda item: -item[1])
        following = (f"{name} {probability:.3f}" for name, probability in ranked[1:3])
        return [row | {"next": ", ".join(following)}]
