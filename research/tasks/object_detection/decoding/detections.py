"""Selection of detections from dense predictions: on the device, with static shapes."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from research.common.config import renamed_from
from research.common.errors import ConfigError
from research.tasks.object_detection.decoding.nms import non_max_suppression


@dataclass(frozen=True)
class Decoding:
    """Selects the detections of an image: top-k scores, then non-maximum suppression."""

    topk_candidates: int = renamed_from("candidates", default=300)
    """Number of highest scores, over all anchor points and classes, that enter suppression."""

    iou_threshold: float = 0.6
    """Suppress a box whose IoU with a higher-scoring box of its class exceeds this threshold."""

    score_threshold: float = 0.01
    """Minimum score of a detection; low, because AP depends on the ranking of all detections."""

    display_threshold: float = renamed_from("told_from", default=0.3)
    """Minimum score of a detection in figures and in the output of `predict`."""

    max_detections: int = renamed_from("detections", default=100)
    """Maximum number of detections per image; COCO's AP evaluates 100."""

    def __post_init__(self):
        for key in ("topk_candidates", "max_detections"):
            if getattr(self, key) < 1:
                raise ConfigError(key, f"invalid value {getattr(self, key)}: expected at least 1")
        for key in ("iou_threshold", "score_threshold", "display_threshold"):
            if not 0 <= getattr(self, key) <= 1:
                problem = f"invalid value {getattr(self, key)}: expected a number in [0, 1]"
                raise ConfigError(key, problem)

    def __call__(
        self, scores: jax.Array, boxes: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Returns the detections of one image by decreasing score.

        Args:
          scores: [points, classes] in [0, 1].
          boxes: [points, 4].

        Returns:
          Boxes [max_detections, 4], scores [max_detections], 0 for padding, and labels int32
          [max_detections].
        """
        # The top k pairs lie in the k rows with the highest maxima: this avoids a sort of all.
        _, rows = jax.lax.top_k(scores.max(axis=1), min(self.topk_candidates, len(scores)))
        pairs = scores[rows].ravel()
        best, pair = jax.lax.top_k(pairs, min(self.topk_candidates, len(pairs)))
        row, label = jnp.divmod(pair, scores.shape[1])
        boxes = boxes[rows[row]]
        kept = non_max_suppression(boxes, label, self.iou_threshold)
        kept &= best >= self.score_threshold
        # `top_k` is stable, so detections with equal scores keep their order.
        best, order = jax.lax.top_k(jnp.where(kept, best, 0.0), min(self.max_detections, len(best)))
        padding = (0, self.max_detections - len(order))
        boxes, label = boxes[order], label[order].astype(jnp.int32)
        return jnp.pad(boxes, (padding, (0, 0))), jnp.pad(best, padding), jnp.pad(label, padding)
