import numpy as np
import pytest
from sklearn.datasets import load_digits

from research.common.errors import ConfigError
from research.tasks.image_classification.data import Digits


@pytest.mark.parametrize("split", ["stratified", "last"])
def test_the_splits_partition_the_digits_and_never_change(split):
    source = Digits(split=split)
    parts = {name: source.open(name) for name in ("train", "validation", "test")}
    assert sum(map(len, parts.values())) == 1797
    assert abs(len(parts["test"]) - 0.2 * 1797) < 2
    images = np.concatenate([part.arrays["image"].reshape(-1, 64) for part in parts.values()])
    labels = np.concatenate([part.arrays["label"] for part in parts.values()])
    original = load_digits()
    pixels = np.round(images * (16 / 255)).astype(int)
    assert sorted(map(tuple, pixels)) == sorted(map(tuple, original.data.astype(int)))
    assert np.bincount(labels).tolist() == np.bincount(original.target).tolist()
    again = source.open("test")
    assert np.array_equal(again.arrays["image"], parts["test"].arrays["image"])


def test_a_stratified_split_contains_all_classes_equally():
    test = Digits().open("test").arrays["label"]
    assert np.ptp(np.bincount(test)) <= 3


def test_an_invalid_fraction_is_an_error():
    with pytest.raises(ConfigError, match="invalid fraction"):
        Digits(test_fraction=1.0)
