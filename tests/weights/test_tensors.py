import numpy as np
import pytest

from research.weights.pytorch import read_pytorch
from tests.weights.torch_files import View, tensor

A, B = np.arange(6, dtype=np.float32).reshape(2, 3), np.array([1, -2], np.int64)


def test_tensors_of_one_storage_share_no_memory(write):
    tensors = read_pytorch(write({"a": View(A.reshape(-1), (3,), (1,)), "b": tensor(A)}))
    a = tensors["a"]
    a[:] = -1
    assert np.array_equal(tensors["a"], A[0]) and np.array_equal(tensors["b"], A)


def test_shapes_are_known_without_reading(write, monkeypatch):
    tensors = read_pytorch(write({"a": tensor(A), "b": tensor(B)}))
    monkeypatch.setattr("research.weights.pytorch.read_extent", None)
    assert len(tensors) == 2 and "a" in tensors and "c" not in tensors
    assert tensors.shapes["a"].shape == (2, 3) and tensors.shapes["b"].dtype == np.int64
    with pytest.raises(KeyError):
        tensors["c"]
