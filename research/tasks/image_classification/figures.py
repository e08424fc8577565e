"""Pictures of a classifier at work. Each function returns a matplotlib figure."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from sklearn.metrics import confusion_matrix as count_confusions

RIGHT, WRONG = "#1a7f37", "#cf222e"
_LABELLED_UP_TO = 30  # classes; more names than that cannot be read


def confusion_matrix(label: np.ndarray, predicted: np.ndarray, names: Sequence[str]) -> Figure:
    """How often each class was taken for which: counts, coloured by their share of the row.

    `label` and `predicted` are [examples] int.
    """
    counts = count_confusions(label, predicted, labels=np.arange(len(names)))
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    size = min(max(0.45 * len(names) + 1.8, 4.0), 9.0)
    figure = Figure(figsize=(size, size), layout="constrained")
    axes = figure.subplots()
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    axes.set(xlabel="predicted", ylabel="true")
    if len(names) <= _LABELLED_UP_TO:
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
    """Images uint8 [examples, height, width, channels], each with what it is and was taken for.

    `confidence` [examples] is the probability of the predicted class.
    """
    rows = -(-len(images) // columns)
    figure = Figure(figsize=(1.25 * columns, 1.55 * rows), layout="constrained")
    for place, axes in enumerate(figure.subplots(rows, columns, squeeze=False).flat):
        axes.axis("off")
        if place >= len(images):
            continue
        right = labels[place] == predicted[place]
        show_image(axes, images[place])
        said = f"{predicted[place]} {confidence[place]:.0%}"
        title = said if right else f"{said}\nis {labels[place]}"
        axes.set_title(title, fontsize=8, color=RIGHT if right else WRONG)
    return figure


def filter_grid(filters: np.ndarray, columns: int = 16) -> Figure:
    """First-layer filters [height, width, channels, filters], each stretched to its own range."""
    tiles = np.moveaxis(filters, -1, 0)
    low = tiles.min(axis=(1, 2, 3), keepdims=True)
    high = tiles.max(axis=(1, 2, 3), keepdims=True)
    return _tiles((tiles - low) / np.maximum(high - low, 1e-12), columns)


def feature_grid(features: np.ndarray, columns: int = 16) -> Figure:
    """The feature maps [height, width, channels] of one image, on one common scale."""
    tiles = np.moveaxis(features, -1, 0)[..., None]
    return _tiles(tiles / max(float(np.abs(tiles).max()), 1e-12), columns)


def show_image(axes: Any, image: np.ndarray) -> None:
    """Draws [height, width, channels] uint8, 1 channel in grey and 3 in colour."""
    if image.shape[-1] == 1:
        axes.imshow(image[..., 0], cmap="gray", vmin=0, vmax=255)
    else:
        axes.imshow(image)


def _tiles(tiles: np.ndarray, columns: int) -> Figure:
    columns = min(columns, len(tiles))
    rows = -(-len(tiles) // columns)
    figure = Figure(figsize=(columns, rows), layout="constrained")
    for place, axes in enumerate(figure.subplots(rows, columns, squeeze=False).flat):
        axes.axis("off")
        if place < len(tiles):
            tile = tiles[place]
            if tile.shape[-1] == 3:
                axes.imshow(tile)
            else:
                axes.imshow(tile.mean(-1), cmap="gray", vmin=0, vmax=1)
    return figure
