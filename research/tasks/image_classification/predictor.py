"""Predicts the classes of image files."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from research.data.dataset import ArrayDataset, Dataset
from research.data.images import decode, resized_center_crop, to_array
from research.predictor import Predictor
from research.tasks.image_classification.task import ImageClassification


class ImageClassificationPredictor(Predictor):
    """Predicts the class of an image file, and its probability."""

    def __init__(self, task: ImageClassification):
        self.task = task

    def preprocess(self, item: str) -> Dataset:
        """Loads an image file, cropped and resized as in evaluation."""
        height, width, channels = self.task.source.image_shape
        crop_fraction = getattr(self.task.source, "crop_fraction", 1.0)
        image = to_array(
            resized_center_crop(decode(Path(item), channels), height, width, crop_fraction)
        )
        return ArrayDataset(image=image[None])

    def postprocess(self, predictions: Sequence[Mapping[str, np.ndarray]]) -> dict[str, Any]:
        """Returns the most probable class, its probability, and the next two with theirs."""
        names, probability = self.task.class_names, predictions[0]["probability"]
        top = np.argsort(-probability, kind="stable")[:3]
        rest = ", ".join(f"{names[i]} {probability[i]:.3f}" for i in top[1:])
        return {"class": names[top[0]], "probability": float(probability[top[0]]), "next": rest}
