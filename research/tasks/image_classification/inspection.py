"""Looks inside a trained network: its first filters, and what each layer makes of an image."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from flax import linen as nn

from research.common.errors import UserError
from research.tasks.image_classification.task import ImageClassification


def first_filters(params: Mapping[str, Any]) -> np.ndarray:
    """The kernel of the first convolution, [height, width, channels, filters] float32.

    Raises:
      UserError: the network has none.
    """
    if "Conv_0" not in params:
        raise UserError("the network has no convolution, so no filters to look at")
    return np.asarray(params["Conv_0"]["kernel"])


def feature_maps(
    task: ImageClassification,
    params: Mapping[str, Any],
    variables: Mapping[str, Any],
    image: np.ndarray,
) -> dict[str, np.ndarray]:
    """What every convolution, in the order they act, makes of one image.

    Args:
      task: the task the network was trained on.
      params: its parameters.
      variables: its running averages.
      image: [height, width, channels] uint8, as the task's data sets give it.

    Returns:
      The layers' names, and their outputs [height, width, filters] float32.
    """
    _, captured = task.network.apply(
        {"params": params, **variables},
        task.normalize(image[None]).astype(task.dtype),
        train=False,
        capture_intermediates=lambda module, _: isinstance(module, nn.Conv),
        mutable=["intermediates"],
    )
    leaves = jax.tree_util.tree_leaves_with_path(captured["intermediates"])
    names = [jax.tree_util.keystr(path[:-2], simple=True, separator="/") for path, _ in leaves]
    order = {name: place for place, name in enumerate(_in_order(captured["intermediates"]))}
    maps = {
        name: np.asarray(leaf[0], np.float32) for name, (_, leaf) in zip(names, leaves, strict=True)
    }
    return dict(sorted(maps.items(), key=lambda item: order[item[0]]))


def _in_order(tree: Mapping[str, Any], prefix: str = "") -> list[str]:
    """The layers' names as they were met; JAX's own traversal sorts them."""
    names: list[str] = []
    for name, value in tree.items():
        names += (
            [prefix.rstrip("/")] if name == "__call__" else _in_order(value, f"{prefix}{name}/")
        )
    return names
