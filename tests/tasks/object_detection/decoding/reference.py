"""A sequential implementation of non-maximum suppression, and boxes to compare with it."""

import numpy as np


def overlaps(boxes):
    """Intersection over union of all pairs of boxes: float64 [boxes, boxes]."""
    boxes = boxes.astype(np.float64)
    low = np.maximum(boxes[:, None, :2], boxes[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
    inter = np.maximum(high - low, 0).prod(axis=-1)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=-1)
    return inter / (areas[:, None] + areas[None, :] - inter)


def greedy_nms(boxes, labels, threshold):
    """Sequential greedy suppression: [boxes] bool."""
    overlap, kept = overlaps(boxes), []
    for one in range(len(boxes)):
        if all(labels[one] != labels[other] or overlap[one, other] <= threshold for other in kept):
            kept.append(one)
    return np.isin(np.arange(len(boxes)), kept)


def crowded(rng, count):
    """Overlapping boxes around few centres, in whole numbers, so that no IoU is rounded."""
    centres = rng.integers(20, 80, (4, 2))[rng.integers(4, size=count)]
    corner = centres + rng.integers(-4, 5, (count, 2))
    return np.concatenate([corner, corner + rng.integers(10, 16, (count, 2))], axis=1)
