"""Selection of detections from the outputs of the network."""

from research.tasks.object_detection.decoding.detections import Decoding
from research.tasks.object_detection.decoding.nms import non_max_suppression

__all__ = ["Decoding", "non_max_suppression"]
