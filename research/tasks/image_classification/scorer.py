"""Metrics of image classification, and figures of the errors."""

from typing import TYPE_CHECKING

import numpy as np

from research.data.dataset import Dataset, Example
from research.task import Metric, Scorer, percentage

if TYPE_CHECKING:
    from research.reporting.figures import Figure

METRICS = {
    "accuracy": percentage("accuracy"),
    "top5_accuracy": percentage("top-5 accuracy"),
    "loss": Metric("loss", "nats", better="lower"),
}
TOP_5_MIN_CLASSES = 20  # with fewer classes top-5 accuracy is close to 1
GRID_IMAGES = 48


class ClassificationScorer(Scorer):
    """Accuracy and top-5 accuracy; keeps the probabilities of every example."""

    targets = ("label",)

    def __init__(self, class_names: tuple[str, ...]):
        self.class_names = class_names
        self._batches: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []

    def update(self, targets: Example, predictions: Example) -> None:
        """Adds labels int [examples] and probabilities float [examples, classes]."""
        self._batches.append((targets["index"], targets["label"], predictions["probability"]))

    @property
    def examples(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Dataset indices [examples], labels [examples], probabilities [examples, classes]."""
        index, label, probability = map(np.concatenate, zip(*self._batches, strict=True))
        return index, label, probability

    def result(self, dataset: Dataset) -> dict[str, float]:
        """Returns `accuracy`, and for many classes `top5_accuracy`, as fractions."""
        from sklearn.metrics import accuracy_score, top_k_accuracy_score  # imported when needed

        _, label, probability = self.examples
        scores = {"accuracy": float(accuracy_score(label, probability.argmax(-1)))}
        if len(self.class_names) >= TOP_5_MIN_CLASSES:
            classes = np.arange(len(self.class_names))
            top5 = top_k_accuracy_score(label, probability, k=5, labels=classes)
            scores["top5_accuracy"] = float(top5)
        return scores

    def hardest(self, count: int) -> np.ndarray:
        """Returns the rows of `examples` with the highest loss, wrong predictions first."""
        _, label, probability = self.examples
        correct = probability.argmax(-1) == label
        return np.lexsort((probability[np.arange(len(label)), label], correct))[:count]

    def figures(self, dataset: Dataset) -> "list[Figure]":
        """Returns the confusion matrix, scores of the classes, and the hardest examples."""
        from research.tasks.image_classification.figures import (
            class_scores,
            confusions,
            image_grid,
        )

        index, label, probability = self.examples
        predicted = probability.argmax(-1)
        rows = self.hardest(GRID_IMAGES)
        images = dataset.batch(index[rows], (0,), None)["image"]
        grid = image_grid(
            "Hardest examples",
            images,
            [self.class_names[i] for i in label[rows]],
            [self.class_names[i] for i in predicted[rows]],
            probability[rows, predicted[rows]],
            f"{len(rows)} of {len(label):,} examples by loss, wrong ones first. "
            "Percentages are the probability of the predicted class.",
        )
        return [
            confusions(label, predicted, self.class_names),
            class_scores(label, predicted, self.class_names),
            grid,
        ]
