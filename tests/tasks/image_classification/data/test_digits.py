import numpy as np
import pytest
from sklearn.datasets import load_digits

from research.common.errors import ConfigError
from research.tasks.image_classification.data import DigitPhotographs, Digits


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


def test_selected_classes_keep_their_splits():
    everything, some = (Digits(classes=tuple(c)).open("test") for c in ("0123456789", "73"))
    images, labels = everything.arrays["image"], everything.arrays["label"]
    for label, digit in enumerate((7, 3)):
        selected = some.arrays["image"][some.arrays["label"] == label]
        np.testing.assert_array_equal(selected, images[labels == digit])


@pytest.mark.parametrize("classes", [(), ("1",), ("1", "1"), ("1", "x")])
def test_invalid_classes_are_refused(classes):
    with pytest.raises(ConfigError, match=r"config\.classes: invalid value"):
        Digits(classes=classes)


def test_digits_over_photographs_are_new_in_each_epoch_of_training_alone():
    source = DigitPhotographs(image_size=20, digit_height=(10, 18))
    for split in ("train", "validation"):
        dataset = source.open(split)
        first, second = (dataset.batch(np.arange(8), (0, epoch), None) for epoch in (0, 1))
        assert first["image"].shape == (8, *source.image_shape) == (8, 20, 20, 3)
        np.testing.assert_array_equal(first["label"], Digits().open(split).arrays["label"][:8])
        assert np.array_equal(first["image"], second["image"]) == (split != "train")


def test_a_digit_higher_than_its_image_is_refused():
    with pytest.raises(ConfigError, match=r"config\.digit_height: .* image_size=16"):
        DigitPhotographs(digit_height=(8, 17))
