import numpy as np
import pytest

from research.data.dataset import ArrayDataset
from research.tasks.image_classification.scorer import ClassificationScorer
from tests.reporting.markup import texts


def scored(class_names, label, probability):
    scorer = ClassificationScorer(class_names)
    half = len(label) // 2
    for part in (slice(0, half), slice(half, None)):
        targets = {"index": np.arange(len(label))[part], "label": label[part]}
        scorer.update(targets, {"probability": probability[part]})
    return scorer


def test_accuracies_agree_with_ranks():
    rng = np.random.default_rng(0)
    label, p = rng.integers(0, 25, 300), rng.dirichlet(np.ones(25), 300)
    result = scored(tuple(map(str, range(25))), label, p).result(None)
    rank = (p > p[np.arange(300), label][:, None]).sum(1)
    assert result == {
        "accuracy": pytest.approx((rank == 0).mean()),
        "top5_accuracy": pytest.approx((rank < 5).mean()),
    }


def test_the_hardest_examples_are_sorted_by_loss_with_errors_first():
    label = np.array([0, 0, 1, 1])
    p = np.array([[0.9, 0.1], [0.2, 0.8], [0.55, 0.45], [0.4, 0.6]])
    scorer = scored(("a", "b"), label, p)
    assert scorer.hardest(4).tolist() == [1, 2, 3, 0]
    images = np.zeros((4, 5, 5, 3), np.uint8)
    figures = scorer.figures(ArrayDataset(image=images, label=label))
    assert [figure.title for figure in figures] == [
        "Confusion matrix",
        "Classes",
        "Hardest examples",
    ]
    assert figures[2].caption.startswith("4 of 4 examples by loss, wrong ones first")
    shown = texts(figures[2].content, "figcaption")
    assert shown == ["✗ b 80%, is a", "✗ a 55%, is b", "b 60%", "a 90%"]
