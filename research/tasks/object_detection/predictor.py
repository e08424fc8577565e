"""Prediction from image files."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from research.data.dataset import ArrayDataset, Dataset
from research.data.images import decode
from research.predictor import Predictor
from research.tasks.object_detection.boxes import NO_OBJECTS, Annotation
from research.tasks.object_detection.data import AnnotatedImages, DetectionExamples
from research.tasks.object_detection.task import ObjectDetection
from research.tasks.object_detection.visualization import draw_detections


class ObjectDetectionPredictor(Predictor):
    """Detects the objects in an image file."""

    def __init__(self, task: ObjectDetection):
        self.task = task

    def preprocess(self, item: str) -> Dataset:
        """Loads an image file as one letterboxed example."""
        images = _UnannotatedImage(decode(Path(item), 3))
        examples = DetectionExamples(images, self.task.image_size, self.task.max_objects)
        # Only the letterboxed array is kept: there can be many large photographs.
        arrays = examples.batch(np.zeros(1, int), (0,), None)
        del arrays["mask"]  # added by the pipeline
        return ArrayDataset(**arrays)

    def postprocess(self, predictions: Sequence[Mapping[str, np.ndarray]]) -> dict[str, Any]:
        """Converts detections above the display threshold to `class`, `score` and `box`.

        Returns:
          `objects`: a list by decreasing score; a box is (x_min, y_min, x_max, y_max) in pixels of
          the original image.
        """
        (prediction,), class_names = predictions, self.task.source.class_names
        confident = prediction["scores"] >= self.task.decoding.display_threshold
        labels, scores, boxes = (
            prediction[name][confident].tolist() for name in ("labels", "scores", "boxes")
        )
        return {
            "objects": [
                {"class": class_names[label], "score": score, "box": box}
                for label, score, box in zip(labels, scores, boxes, strict=True)
            ]
        }

    def to_rows(self, result: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Returns one row per object, its box rounded to whole pixels."""
        shared = {key: value for key, value in result.items() if key != "objects"}
        sides = ("x_min", "y_min", "x_max", "y_max")
        empty = dict.fromkeys(("class", "score", *sides), "-")
        return [
            shared
            | {"class": detection["class"], "score": detection["score"]}
            | {side: round(value) for side, value in zip(sides, detection["box"], strict=True)}
            for detection in result["objects"]
        ] or [shared | empty]

    def visualize(self, item: str, result: Mapping[str, Any]) -> Image.Image:
        """Draws the boxes, class names and scores of a result onto its image."""
        objects = result["objects"]
        boxes = np.array([one["box"] for one in objects], np.float32).reshape(-1, 4)
        names, scores = ([one[key] for one in objects] for key in ("class", "score"))
        return draw_detections(decode(Path(item), 3), boxes, names, np.array(scores))


class _UnannotatedImage(AnnotatedImages):
    """A single image without annotations."""

    def __init__(self, image: Image.Image):
        self._image = image

    def __len__(self) -> int:
        return 1

    def image(self, index: int) -> Image.Image:
        return self._image

    def annotation(self, index: int) -> Annotation:
        return NO_OBJECTS
