"""Detection networks."""

from research.tasks.object_detection.models.detector import Detector, anchor_points

__all__ = ["Detector", "anchor_points"]
