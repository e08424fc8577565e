"""Figures of a classifier: confusion matrix, images with predictions, filters, feature maps."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from sklearn.metrics import confusion_matrix as count_confusions

CORRECT, WRONG = "#1a7f37", "#cf222e"
MAX_NAMED_CLASSES = 30  # the names of more classes are too small to read


def confusion_matrix(label: np.ndarray, predicted: np.ndarray, names: Sequence[str]) -> Figure:
    """Plots counts of true classes (rows) and predicted classes (columns), coloured by row share.

    Args:
      label: int [examples].
      predicted: int [examples].
      names: of the classes.
    """
    counts = count_confusions(label, predicted, labels=np.arange(len(names)))
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    size = min(max(0.45 * len(names) + 1.8, 4.0), 9.0)
    figure = Figure(figsize=(size, size), layout="constrained")
    axes = figure.subplots()
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    axes.set(xlabel="predicted", ylabel="true")
    if len(names) <= MAX_NAMED_CLASSES:
        rotation = 0 if max(map(len, names)) <= 2 else 60
        axes.set_xticks(range(len(names)), names, rotation=rotation)
        axes.set_yticks(range(len(names)), names)
        for row, column in np.argwhere(counts):
            colour = "white" if share[row, column] > 0.5 else "black"
            text = str(counts[row, column])
            axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=8)
    return figure


def image_grid(
    images: np.ndarray,
    labels: Sequence[str],
    predicted: Sequence[str],
    confidence: np.ndarray,
    columns: int = 8,
) -> Figure:
    """Plots images with their predicted class, and with their true class if the two differ.

    Args:
      images: uint8 [examples, height, width, channels].
      labels: true class of each example.
      predicted: predicted class of each example.
      confidence: probability of the predicted class, float [examples].
      columns: images in a row.
    """
    rows = -(-len(images) // columns)
    figure = Figure(figsize=(1.25 * columns, 1.55 * rows), layout="constrained")
    for i, axes in enumerate(figure.subplots(rows, columns, squeeze=False).flat):
        axes.axis("off")
        if i >= len(images):
            continue
        correct = labels[i] == predicted[i]
        show_image(axes, images[i])
        prediction = f"{predicted[i]} {confidence[i]:.0%}"
        title = prediction if correct else f"{prediction}\nis {labels[i]}"
        axes.set_title(title, fontsize=8, color=CORRECT if correct else WRONG)
    return figure


def filter_grid(filters: np.ndarray, columns: int = 16) -> Figure:
    """Plots filters [height, width, channels, filters], each scaled to its own range."""
    tiles = np.moveaxis(filters, -1, 0)
    low = tiles.min(axis=(1, 2, 3), keepdims=True)
    high = tiles.max(axis=(1, 2, 3), keepdims=True)
    return _tiles((tiles - low) / np.maximum(high - low, 1e-12), columns)


def feature_grid(features: np.ndarray, columns: int = 16) -> Figure:
    """Plots the feature maps [height, width, channels] of one image, all on one scale."""
    tiles = np.moveaxis(features, -1, 0)[..., None]
    return _tiles(tiles / max(float(np.abs(tiles).max()), 1e-12), columns)


def few_shot_curves(shots: Sequence[int], accuracy: Mapping[str, np.ndarray]) -> Figure:
    """Plots the mean accuracy over the number of examples, with a band of one standard deviation.

    Args:
      shots: numbers of examples of each class.
      accuracy: accuracies [shots, draws] of the curves "pretrained" and, if any, "scratch".
    """
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.subplots()
    curves = {"pretrained": (CORRECT, "pretrained"), "scratch": (WRONG, "from scratch")}
    for name, values in accuracy.items():
        colour, label = curves[name]
        mean, spread = 100 * values.mean(axis=1), 100 * values.std(axis=1, ddof=values.shape[1] > 1)
        axes.plot(shots, mean, marker="o", color=colour, label=label)
        low, high = np.clip(mean - spread, 0, 100), np.clip(mean + spread, 0, 100)
        axes.fill_between(shots, low, high, color=colour, alpha=0.15, linewidth=0)
    axes.set_xscale("log")
    axes.set_xticks(shots, [str(number) for number in shots])
    axes.minorticks_off()
    axes.set(xlabel="examples per class", ylabel="accuracy on the new classes (%)")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right", frameon=False)
    return figure


def show_image(axes: Any, image: np.ndarray) -> None:
    """Draws an image uint8 [height, width, 1 or 3]."""
    if image.shape[-1] == 1:
        axes.imshow(image[..., 0], cmap="gray", vmin=0, vmax=255)
    else:
        axes.imshow(image)


def _tiles(tiles: np.ndarray, columns: int) -> Figure:
    """Plots tiles [tiles, height, width, channels] in a grid."""
    columns = min(columns, len(tiles))
    rows = -(-len(tiles) // columns)
    figure = Figure(figsize=(columns, rows), layout="constrained")
    for i, axes in enumerate(figure.subplots(rows, columns, squeeze=False).flat):
        axes.axis("off")
        if i < len(tiles):
            tile = tiles[i]
            if tile.shape[-1] == 3:
                axes.imshow(tile)
            else:
                axes.imshow(tile.mean(-1), cmap="gray", vmin=0, vmax=1)
    return figure
