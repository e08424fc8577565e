import numpy as np
import pytest

from research.common.errors import UserError
from research.data.dataset import ArrayDataset, Concatenation, Dataset, Subset


class Ragged(Dataset):
    """Sequences of the given lengths; example i is filled with i."""

    def __init__(self, lengths, buckets):
        super().__init__()
        self.lengths, self.buckets = np.array(lengths), buckets

    def __len__(self):
        return len(self.lengths)

    def example(self, index, rng):
        return {"x": np.full(self.lengths[index], index, np.float32)}


class Broken(Dataset):
    """Examples that cannot be read."""

    def __len__(self):
        return 30

    def example(self, index, rng):
        self.skip(index, f"file {index} is missing")


def test_unusable_examples_are_counted_and_the_first_are_logged(caplog):
    broken = Broken()
    for _ in range(2):
        for index in range(30):
            broken.example(index, np.random.default_rng(0))
    assert len(broken.unusable) == 30
    assert len(caplog.records) == 21
    assert "skipped example 0: file 0 is missing" in caplog.text
    assert "skipped more than 20 examples" in caplog.text


def test_a_dataset_without_usable_examples_is_refused():
    with pytest.raises(UserError, match="no usable example among 30; the first: file 0"):
        Broken().batch(np.array([3]), (0,), None)


def test_a_concatenation_has_one_dataset_after_the_other():
    parts = [ArrayDataset(x=np.arange(3)), ArrayDataset(x=np.arange(10, 12))]
    parts[0].lengths, parts[0].buckets = np.array([1, 2, 2]), (2,)
    parts[1].lengths, parts[1].buckets = np.array([4, 1]), (2, 5)
    whole = Concatenation(parts)
    rng = np.random.default_rng(0)
    assert [int(whole.example(i, rng)["x"]) for i in range(len(whole))] == [0, 1, 2, 10, 11]
    assert whole.lengths.tolist() == [1, 2, 2, 4, 1] and whole.buckets == (2, 5)
    parts[0].lengths, parts[0].buckets = np.array([[1, 2]] * 3), ((2, 2), (4, 4))
    parts[1].lengths, parts[1].buckets = np.array([[3, 1]] * 2), ((4, 4),)
    whole = Concatenation(parts)
    assert whole.lengths.tolist() == [[1, 2]] * 3 + [[3, 1]] * 2
    assert whole.buckets == ((2, 2), (4, 4))


@pytest.mark.parametrize("order", [[0, 1], [1, 0]])
def test_a_concatenation_of_different_arrays_is_refused(order):
    parts = [ArrayDataset(x=np.arange(1)), ArrayDataset(x=np.arange(1), y=np.arange(1))]
    whole = Concatenation([parts[i] for i in order])
    problem = r"invalid example 1 with the arrays x(, y)?: expected x(, y)?"
    with pytest.raises(UserError, match=problem):
        whole.batch(np.array([0, 1]), (0,), None)


def test_a_batch_is_padded_to_its_bucket():
    batch = Ragged([2, 3], (4,)).batch(np.array([0, 1]), (0,), {"x": (4,)})
    assert batch["x"].tolist() == [[0, 0, 0, 0], [1, 1, 1, 0]]
    assert batch["mask"].tolist() == [1, 1]


def test_a_subset_has_the_lengths_of_its_examples():
    both = Subset(Ragged([[1, 5], [2, 6], [3, 7]], ((4, 8),)), np.array([2, 0]))
    assert both.lengths.tolist() == [[3, 7], [1, 5]]
    part = Subset(Ragged([1, 2, 3, 4], (4,)), np.array([3, 1]))
    assert part.lengths.tolist() == [4, 2]
    assert part.batch(np.array([0]), (0,), None)["x"].tolist() == [[3, 3, 3, 3]]


def test_a_subset_reads_the_examples_at_its_indices():
    part, rng = (
        Subset(ArrayDataset(x=np.arange(10, 15)), np.array([4, 1])),
        np.random.default_rng(0),
    )
    assert [int(part.example(i, rng)["x"]) for i in range(len(part))] == [14, 11]


class FirstIsUnusable(Ragged):
    """Sequences of which the first cannot be read."""

    def example(self, index, rng):
        return self.skip(index, "missing") if index == 0 else super().example(index, rng)


def test_a_longer_example_that_replaces_an_unusable_one_is_cut_to_the_bucket():
    batch = FirstIsUnusable([2, 5], (3, 5)).batch(np.array([0]), (0,), {"x": (3,)})
    assert batch["x"].tolist() == [[1, 1, 1]]
    assert batch["mask"].tolist() == [0]
