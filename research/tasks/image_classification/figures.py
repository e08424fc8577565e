"""Figures of a classifier: scores of the classes, predictions, filters and feature maps."""

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image
from sklearn.metrics import confusion_matrix as count_confusions
from sklearn.metrics import precision_recall_fscore_support

from research.reporting.charts import Axis, Series, legend, line_chart
from research.reporting.elements import Number, confusion_matrix, gallery, picture, table
from research.reporting.figures import Figure
from research.reporting.html import Html, element, join

_THUMBNAIL = 160  # pixels; larger images are scaled down


def confusions(label: np.ndarray, predicted: np.ndarray, names: Sequence[str]) -> Figure:
    """Shows counts of true classes (rows) and predicted classes (columns), coloured by row share.

    Args:
      label: int [examples].
      predicted: int [examples].
      names: of the classes.
    """
    counts = count_confusions(label, predicted, labels=np.arange(len(names)))
    wrong = int((label != predicted).sum())
    caption = f"{wrong:,} of {len(label):,} examples wrong. Colours are shares of the row."
    return Figure("Confusion matrix", confusion_matrix(counts, names, names), caption)


def class_scores(label: np.ndarray, predicted: np.ndarray, names: Sequence[str]) -> Figure:
    """Lists precision, recall and F1 of each class; arguments as of `confusions`."""
    scores = precision_recall_fscore_support(
        label, predicted, labels=np.arange(len(names)), zero_division=0
    )
    rows = [
        (name, *(Number(f"{100 * part:.1f} %", part) for part in parts), Number(f"{n:,}", n))
        for name, *parts, n in zip(names, *(each.tolist() for each in scores), strict=True)
    ]
    body = table(("class", "precision", "recall", "F1", "examples"), rows)
    return Figure("Classes", element("div", body, class_="tall"))


def image_grid(
    title: str,
    images: np.ndarray,
    labels: Sequence[str],
    predicted: Sequence[str],
    confidence: np.ndarray,
    caption: str = "",
) -> Figure:
    """Shows images with their predicted class, and with their true class if the two differ.

    Args:
      title: of the figure.
      images: uint8 [examples, height, width, channels].
      labels: true class of each example.
      predicted: predicted class of each example.
      confidence: probability of the predicted class, float [examples].
      caption: of the figure.
    """
    items = []
    for image, true, guess, sure in zip(images, labels, predicted, confidence, strict=True):
        text = f"{guess} {sure:.0%}" if true == guess else f"✗ {guess} {sure:.0%}, is {true}"
        words = element("span", text, class_="good" if true == guess else "bad")
        items.append((picture(_thumbnail(image), f"{true}, predicted {guess}"), words))
    return Figure(title, gallery(items, "4.6rem" if images.shape[1] <= 64 else "8rem"), caption)


def filter_grid(filters: np.ndarray) -> Figure:
    """Shows filters [height, width, channels, filters], each scaled to its own range."""
    tiles = np.moveaxis(filters, -1, 0)
    low = tiles.min(axis=(1, 2, 3), keepdims=True)
    high = tiles.max(axis=(1, 2, 3), keepdims=True)
    return Figure("Filters", _tiles((tiles - low) / np.maximum(high - low, 1e-12), "filter"))


def feature_grid(features: np.ndarray) -> Figure:
    """Shows the feature maps [height, width, channels] of one image, all on one scale."""
    tiles = np.moveaxis(features, -1, 0)[..., None]
    return Figure("Feature maps", _tiles(tiles / max(float(np.abs(tiles).max()), 1e-12), "map"))


def few_shot_curves(shots: Sequence[int], accuracy: Mapping[str, np.ndarray]) -> Figure:
    """Plots the mean accuracy over the number of examples, with a band of one standard deviation.

    Args:
      shots: numbers of examples of each class.
      accuracy: accuracies [shots, draws] of the curves "pretrained" and, if any, "scratch".
    """
    names, curves = {"pretrained": "pretrained", "scratch": "from scratch"}, []
    for number, (name, values) in enumerate(accuracy.items()):
        mean, spread = 100 * values.mean(axis=1), 100 * values.std(axis=1, ddof=values.shape[1] > 1)
        band = [np.clip(limit, 0, 100).tolist() for limit in (mean - spread, mean + spread)]
        curves.append(
            Series(names[name], shots, mean.tolist(), 2 * number, band=(band[0], band[1]))
        )
    chart = line_chart(
        "Accuracy on the new classes",
        Axis("examples per class", log=True, ticks=shots),
        Axis("accuracy (%)"),
        curves,
    )
    entries = {curve.name: curve.name for curve in curves}
    draws = accuracy["pretrained"].shape[1]
    caption = f"Mean of {draws} draws, with a band of one standard deviation."
    return Figure("Few-shot accuracy", join([legend(entries, curves), chart]), caption)


def _thumbnail(image: np.ndarray) -> Image.Image:
    """Returns an image uint8 [height, width, 1 or 3], scaled down if it is large."""
    picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    picture.thumbnail((_THUMBNAIL, _THUMBNAIL))
    return picture


def _tiles(tiles: np.ndarray, name: str) -> Html:
    """Shows tiles [tiles, height, width, channels] with values from 0 to 1."""
    pixels = (255 * np.clip(tiles, 0, 1)).astype(np.uint8)
    if pixels.shape[-1] != 3:
        pixels = (255 * np.clip(tiles.mean(-1, keepdims=True), 0, 1)).astype(np.uint8)
    items = [
        (picture(_thumbnail(tile), f"{name} {number}"), str(number))
        for number, tile in enumerate(pixels)
    ]
    return gallery(items, "4rem")
