"""Inspection of a trained classifier: its first filters and its feature maps."""

from collections.abc import Mapping
from functools import reduce
from typing import Any

import jax
import numpy as np
from flax import linen as nn

from research.common.errors import UserError
from research.tasks.image_classification.task import ImageClassification


def first_layer_filters(
    task: ImageClassification, params: Mapping[str, Any], variables: Mapping[str, Any]
) -> np.ndarray:
    """Returns the kernel of the first convolution, float32 [height, width, channels, filters].

    Args:
      task: of the trained network.
      params: parameters of the network.
      variables: batch statistics of the network.

    Raises:
      UserError: the network has no convolution.
    """
    black = np.zeros(task.source.image_shape, np.uint8)
    first = next(iter(feature_maps(task, params, variables, black)), None)
    if first is None:
        raise UserError("missing filters: the network has no convolution; choose another model")
    layer = reduce(lambda tree, name: tree[name], first.split("/"), params)
    return np.asarray(layer["kernel"])


def feature_maps(
    task: ImageClassification,
    params: Mapping[str, Any],
    variables: Mapping[str, Any],
    image: np.ndarray,
) -> dict[str, np.ndarray]:
    """Computes the outputs of all convolutions for one image.

    Args:
      task: of the trained network.
      params: parameters of the network.
      variables: batch statistics of the network.
      image: uint8 [height, width, channels], from a dataset of the task.

    Returns:
      Feature maps float32 [height, width, filters] by layer name, in the order of execution; empty
      for a network without convolutions.
    """
    _, captured = task.network.apply(
        {"params": params, **variables},
        task.resize(task.normalize(image[None])).astype(task.dtype),
        train=False,
        capture_intermediates=lambda module, _: isinstance(module, nn.Conv),
        mutable=["intermediates"],
    )
    intermediates = captured.get("intermediates", {})
    leaves = jax.tree_util.tree_leaves_with_path(intermediates)
    names = [jax.tree_util.keystr(path[:-2], simple=True, separator="/") for path, _ in leaves]
    order = {name: i for i, name in enumerate(_execution_order(intermediates))}
    maps = {
        name: np.asarray(leaf[0], np.float32) for name, (_, leaf) in zip(names, leaves, strict=True)
    }
    return dict(sorted(maps.items(), key=lambda item: order[item[0]]))


def _execution_order(tree: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Returns layer names in the order of execution; JAX's own traversal sorts them."""
    names: list[str] = []
    for name, value in tree.items():
        if name == "__call__":
            names.append(prefix.rstrip("/"))
        else:
            names += _execution_order(value, f"{prefix}{name}/")
    return names
