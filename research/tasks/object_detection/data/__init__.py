"""Sources of annotated images and the examples made from them."""

from research.tasks.object_detection.data.annotated_images import AnnotatedImages
from research.tasks.object_detection.data.coco import COCO
from research.tasks.object_detection.data.examples import DetectionExamples
from research.tasks.object_detection.data.scenes import DigitScenes
from research.tasks.object_detection.data.tfds import DetectionTFDS
from research.tasks.object_detection.data.voc import VOC

__all__ = [
    "COCO",
    "VOC",
    "AnnotatedImages",
    "DetectionExamples",
    "DetectionTFDS",
    "DigitScenes",
]
