"""Bounding boxes: the coordinate convention and pure functions of boxes.

A box is (x_min, y_min, x_max, y_max) in pixels, float32, in continuous coordinates where pixel
(0, 0) covers the square from (0, 0) to (1, 1). Thus the width is `x_max - x_min`, the box of a
whole image is (0, 0, width, height), and a horizontal flip maps x to `width - x`. Readers of data
sets with another convention convert boxes to this one.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Annotation(NamedTuple):
    """The objects of an image."""

    boxes: np.ndarray  # [objects, 4] float32
    labels: np.ndarray  # [objects] int32, positions in the class names
    crowd: np.ndarray  # [objects] bool: excluded from loss and AP, as COCO's `iscrowd`

    def select(self, chosen: np.ndarray) -> "Annotation":
        """Returns the objects of a boolean mask, or at integer positions."""
        return Annotation(*(part[chosen] for part in self))


NO_OBJECTS = Annotation(np.zeros((0, 4), np.float32), np.zeros(0, np.int32), np.zeros(0, bool))


def sanitize(
    annotation: Annotation, width: int, height: int
) -> tuple[Annotation, list[tuple[str, int]]]:
    """Sorts swapped corners, clips boxes to the image and removes invalid boxes.

    A box is invalid if it is not finite or has no area within the image.

    Args:
      annotation: as read from a file.
      width: of the image, in pixels.
      height: of the image, in pixels.

    Returns:
      The remaining objects, and (description, position in `annotation`) of each error.
    """
    given = annotation.boxes.reshape(-1, 4)
    corners = given.reshape(-1, 2, 2)
    ordered = np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)
    cut = np.clip(ordered, 0, np.array([width, height, width, height], np.float32))
    finite = np.isfinite(given).all(axis=1)
    kept = finite & (cut[:, 2:] > cut[:, :2]).all(axis=1)
    errors = []
    # Some annotation tools exceed the edge of the image by up to half a pixel.
    outside = kept & (np.abs(cut - ordered) > 0.5).any(axis=1)
    for kind, wrong in (
        ("has swapped corners, sorted", kept & (ordered != given).any(axis=1)),
        ("exceeds the image, clipped", outside),
        ("has no area within the image, removed", ~kept),
    ):
        errors += [(kind, position) for position in np.flatnonzero(wrong).tolist()]
    return Annotation(cut, annotation.labels, annotation.crowd).select(kept), errors


def format_box(box: np.ndarray) -> str:
    """Formats a box [4] for messages."""
    return f"box {[round(side, 1) for side in box.tolist()]}"


def area(boxes: jax.Array) -> jax.Array:
    """Returns the areas [...] of boxes [..., 4] in square pixels."""
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def iou(a: jax.Array, b: jax.Array) -> jax.Array:
    """Returns the IoU in [0, 1] of boxes [..., 4], with broadcasting; 0 for empty boxes."""
    inter = _intersection(a, b)
    return inter / jnp.maximum(area(a) + area(b) - inter, 1e-9)


def giou(a: jax.Array, b: jax.Array) -> jax.Array:
    """Returns the generalised IoU in [-1, 1], with broadcasting (Rezatofighi et al. 2019).

    The enclosing box gives a gradient to boxes that do not overlap.
    """
    inter = _intersection(a, b)
    union = jnp.maximum(area(a) + area(b) - inter, 1e-9)
    low = jnp.minimum(a[..., :2], b[..., :2])
    high = jnp.maximum(a[..., 2:], b[..., 2:])
    enclosing = jnp.maximum(jnp.prod(high - low, axis=-1), 1e-9)
    return inter / union - (enclosing - union) / enclosing


def _intersection(a: jax.Array, b: jax.Array) -> jax.Array:
    low = jnp.maximum(a[..., :2], b[..., :2])
    high = jnp.minimum(a[..., 2:], b[..., 2:])
    return jnp.prod(jnp.maximum(high - low, 0.0), axis=-1)
