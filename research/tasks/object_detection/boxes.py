"""Boxes: the one convention, and what is computed from boxes alone.

A box is (x_min, y_min, x_max, y_max) in pixels, float32, in the continuous coordinates in which
pixel (0, 0) covers the square from (0, 0) to (1, 1). So the width is `x_max - x_min`, a box over
the whole of an image is (0, 0, width, height), and mirroring maps x to `width - x`. Sources that
write boxes otherwise are converted where they are read.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Annotation(NamedTuple):
    """The objects of an image."""

    boxes: np.ndarray  # [objects, 4] float32
    labels: np.ndarray  # [objects] int32, positions in the class names
    crowd: np.ndarray  # [objects] bool: neither to be found nor wrong to find, as COCO's crowds

    def select(self, chosen: np.ndarray) -> "Annotation":
        """The objects of a mask, or at places."""
        return Annotation(*(part[chosen] for part in self))


NO_OBJECTS = Annotation(np.zeros((0, 4), np.float32), np.zeros(0, np.int32), np.zeros(0, bool))


def repaired(
    annotation: Annotation, width: int, height: int
) -> tuple[Annotation, list[tuple[str, int]]]:
    """An annotation whose boxes all have an area within the image, and what was wrong with it.

    Swapped corners are put in order and boxes that leave the image are cut off at its edge; a box
    that is empty then, or not finite, is left out.

    Args:
      annotation: as a file has it.
      width: of the image, in pixels.
      height: likewise.

    Returns:
      The objects that are left; and for each fault its kind, and which of the given boxes has it.
    """
    given = annotation.boxes.reshape(-1, 4)
    corners = given.reshape(-1, 2, 2)
    ordered = np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)
    cut = np.clip(ordered, 0, np.array([width, height, width, height], np.float32))
    finite = np.isfinite(given).all(axis=1)
    kept = finite & (cut[:, 2:] > cut[:, :2]).all(axis=1)
    faults = []
    # Half a pixel outside is how some programs write "up to the edge".
    outside = kept & (np.abs(cut - ordered) > 0.5).any(axis=1)
    for kind, wrong in (
        ("swapped corners, put in order", kept & (ordered != given).any(axis=1)),
        ("leaves the image, cut off at its edge", outside),
        ("has no area in the image, left out", ~kept),
    ):
        faults += [(kind, place) for place in np.flatnonzero(wrong).tolist()]
    return Annotation(cut, annotation.labels, annotation.crowd).select(kept), faults


def named(box: np.ndarray) -> str:
    """What messages call a box [4]."""
    return f"box {[round(side, 1) for side in box.tolist()]}"


def area(boxes: jax.Array) -> jax.Array:
    """Boxes [..., 4] to square pixels [...]."""
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def iou(a: jax.Array, b: jax.Array) -> jax.Array:
    """Intersection over union of boxes [..., 4] that broadcast, in [0, 1]; 0 for empty ones."""
    inter = _intersection(a, b)
    return inter / jnp.maximum(area(a) + area(b) - inter, 1e-9)


def giou(a: jax.Array, b: jax.Array) -> jax.Array:
    """Generalised intersection over union, in [-1, 1] (Rezatofighi et al. 2019, eq. 3).

    Boxes that do not meet still have a gradient, out of the hull that holds both.
    """
    inter = _intersection(a, b)
    union = jnp.maximum(area(a) + area(b) - inter, 1e-9)
    low = jnp.minimum(a[..., :2], b[..., :2])
    high = jnp.maximum(a[..., 2:], b[..., 2:])
    hull = jnp.maximum(jnp.prod(high - low, axis=-1), 1e-9)
    return inter / union - (hull - union) / hull


def _intersection(a: jax.Array, b: jax.Array) -> jax.Array:
    low = jnp.maximum(a[..., :2], b[..., :2])
    high = jnp.minimum(a[..., 2:], b[..., 2:])
    return jnp.prod(jnp.maximum(high - low, 0.0), axis=-1)
