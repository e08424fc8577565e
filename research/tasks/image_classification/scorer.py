"""The score of a classifier over a split, and pictures of where it errs."""

import numpy as np
from matplotlib.figure import Figure
from sklearn.metrics import accuracy_score, top_k_accuracy_score

from research.data.dataset import Dataset, Example
from research.task import Scorer
from research.tasks.image_classification.figures import confusion_matrix, image_grid

_TOP_FIVE_FROM = 20  # classes; with fewer, being among the first five says little
_SHOWN = 48  # images in the grid


class ClassificationScorer(Scorer):
    """Keeps one row of probabilities for each example."""

    targets = ("label",)

    def __init__(self, class_names: tuple[str, ...]):
        self.class_names = class_names
        self._seen: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []

    def update(self, targets: Example, predictions: Example) -> None:
        """Takes labels int [examples] and probabilities [examples, classes]."""
        self._seen.append((targets["index"], targets["label"], predictions["probability"]))

    @property
    def seen(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Dataset positions [examples], labels [examples], probabilities [examples, classes]."""
        index, label, probability = (np.concatenate(part) for part in zip(*self._seen, strict=True))
        return index, label, probability

    def result(self, dataset: Dataset) -> dict[str, float]:
        """`accuracy`, and `top5_accuracy` where there are many classes, as fractions."""
        _, label, probability = self.seen
        scores = {"accuracy": float(accuracy_score(label, probability.argmax(-1)))}
        if len(self.class_names) >= _TOP_FIVE_FROM:
            classes = np.arange(len(self.class_names))
            top5 = top_k_accuracy_score(label, probability, k=5, labels=classes)
            scores["top5_accuracy"] = float(top5)
        return scores

    def worst(self, count: int) -> np.ndarray:
        """Rows of `seen`, those with the least probability of the true class first."""
        _, label, probability = self.seen
        right = probability.argmax(-1) == label
        return np.lexsort((probability[np.arange(len(label)), label], right))[:count]

    def figures(self, dataset: Dataset) -> dict[str, Figure]:
        """The confusion matrix, and the worst examples."""
        index, label, probability = self.seen
        predicted = probability.argmax(-1)
        rows = self.worst(_SHOWN)
        examples = dataset.batch(index[rows], (0,), None)
        grid = image_grid(
            examples["image"],
            [self.class_names[i] for i in label[rows]],
            [self.class_names[i] for i in predicted[rows]],
            probability[rows, predicted[rows]],
        )
        wrong = int((predicted != label).sum())
        title = f"The {len(rows)} hardest of {len(label)} examples, the {wrong} wrong ones first"
        return {
            "Confusion matrix": confusion_matrix(label, predicted, self.class_names),
            title: grid,
        }
