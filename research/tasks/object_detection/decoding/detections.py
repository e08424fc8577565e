"""From what all places say to a list of detections: on the device, with static shapes."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from research.common.config import formerly
from research.common.errors import ConfigError
from research.tasks.object_detection.decoding.nms import non_max_suppression


@dataclass(frozen=True)
class Decoding:
    """How detections are chosen."""

    candidates: int = 300
    """The best pairs of a place and a class that are looked at."""

    iou_threshold: float = 0.6
    """Of two boxes of a class that overlap by more, the one with the lesser score is dropped."""

    score_threshold: float = 0.01
    """The least score of a detection; AP wants it low, as it counts the order and not the score."""

    display_threshold: float = formerly("told_from", default=0.3)
    """The least score of a detection that `predict` tells of."""

    detections: int = 100
    """The greatest number of detections in an image; COCO's AP looks at 100."""

    def __post_init__(self):
        for key in ("candidates", "detections"):
            if getattr(self, key) < 1:
                raise ConfigError(key, f"must be at least 1, is {getattr(self, key)}")
        for key in ("iou_threshold", "score_threshold", "display_threshold"):
            if not 0 <= getattr(self, key) <= 1:
                raise ConfigError(key, f"must lie in [0, 1], is {getattr(self, key)}")

    def __call__(
        self, scores: jax.Array, boxes: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """The detections of one image, the best first.

        Args:
          scores: [places, classes] in [0, 1].
          boxes: [places, 4].

        Returns:
          Boxes [detections, 4], scores [detections], 0 where there is no detection, and labels
          int32 [detections].
        """
        # A place that is not among the best by its best class is not among them by another.
        _, chosen = jax.lax.top_k(scores.max(axis=1), min(self.candidates, len(scores)))
        pairs = scores[chosen].ravel()
        best, pair = jax.lax.top_k(pairs, min(self.candidates, len(pairs)))
        place, label = jnp.divmod(pair, scores.shape[1])
        boxes = boxes[chosen[place]]
        kept = (best >= self.score_threshold) & non_max_suppression(
            boxes, label, self.iou_threshold
        )
        # Ascending in rank, as `top_k` leaves equal numbers in their order.
        best, order = jax.lax.top_k(jnp.where(kept, best, 0.0), min(self.detections, len(best)))
        missing = (0, self.detections - len(order))
        boxes, label = boxes[order], label[order].astype(jnp.int32)
        return jnp.pad(boxes, (missing, (0, 0))), jnp.pad(best, missing), jnp.pad(label, missing)
