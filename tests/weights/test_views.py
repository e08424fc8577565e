import numpy as np
import pytest

from research.weights.pytorch import read_pytorch
from tests.weights import torch_files
from tests.weights.torch_files import DTYPES, OrderedDict, Raw, View, random_array, tensor

A = np.arange(6, dtype=np.float32).reshape(2, 3)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_is_read_bit_by_bit(write, dtype):
    array = random_array(dtype, np.random.default_rng(0)).reshape(2, 3, 4)
    tensors = read_pytorch(write(OrderedDict(x=tensor(array))))
    assert tensors["x"].dtype == array.dtype and tensors["x"].shape == (2, 3, 4)
    assert tensors["x"].tobytes() == array.tobytes()


def test_bytes_of_booleans_become_0_or_1(write):
    tensors = read_pytorch(write({"x": tensor(np.array([0, 1, 2], np.uint8).view(bool))}))
    assert tensors["x"].tobytes() == b"\0\1\1"


@pytest.mark.parametrize("seed", range(40))
def test_random_views_equal_their_definition(write, seed):
    """Element i of a view is element offset + i @ strides of its storage."""
    rng = np.random.default_rng(seed)
    storage = random_array(rng.choice(DTYPES), rng)
    views, expected = {}, {}
    while len(views) < 5:
        shape = tuple(rng.integers(0 if len(views) == 4 else 1, 4, rng.integers(0, 4)).tolist())
        strides = tuple(rng.integers(0, 7, len(shape)).tolist())
        offset = int(rng.integers(0, 24))
        index = offset + sum(
            i * stride for i, stride in zip(np.indices(shape), strides, strict=True)
        )
        if np.max(index, initial=0) < len(storage):
            views[f"x{len(views)}"] = View(storage, shape, strides, offset)
            expected[f"x{len(expected)}"] = storage[np.asarray(index, np.int64)]
    tensors = read_pytorch(write(views))
    assert list(tensors) == list(expected)
    for name, array in expected.items():
        assert tensors.shapes[name].shape == array.shape == tensors[name].shape
        assert tensors[name].tobytes() == array.tobytes()


@pytest.mark.parametrize(
    ("view", "word"),
    [
        (View(A.reshape(-1), (7,), (1,)), "exceeds"),
        (View(A.reshape(-1), (2, 3), (4, 1)), "exceeds"),
        (View(A.reshape(-1), (1,), (1,), offset=6), "exceeds"),
        (View(A.reshape(-1), (6,), (1,), length=7), "truncated"),
        (View(A.reshape(-1), (2**40,), (0,)), "larger than the file"),
        (View(A.reshape(-1), (2**62, 2**62), (1, 1)), "exceeds"),
        (View(A.reshape(-1), (2**64,), (0,)), "invalid shape"),
        (View(A.reshape(-1), (-1,), (1,)), "invalid shape"),
        (View(A.reshape(-1), (2,), (-1,), offset=1), "invalid shape"),
        (View(A.reshape(-1), (2,), (1, 1)), "invalid tensor"),
        (View(A.reshape(-1), (1,) * 65, (1,) * 65), "invalid shape"),
        (View(A.reshape(-1), (2.0,), (1,)), "invalid shape"),
        (View(A.reshape(-1), (2,), (1,), offset=-1), "invalid shape"),
    ],
)
def test_a_tensor_that_does_not_fit_its_storage_is_refused(write, view, word, refused):
    refused(write({"weight": view, "other": tensor(np.zeros(1000))}), word)


def test_other_kinds_of_tensors_are_refused(write, refused):
    sparse = b"ctorch._utils\n_rebuild_sparse_tensor\n)R"
    refused(write({"a": Raw(sparse)}), "torch._utils._rebuild_sparse_tensor")
    conjugated = torch_files.dumps(tensor(A))[2:-1].replace(b")RtR", b")R}X\x04\0\0\0conj\x88stR")
    refused(write({"a": Raw(conjugated)}), "lazily conjugated")
    quantized = torch_files.dumps(tensor(A))[2:-1].replace(b"FloatStorage", b"QInt8Storage")
    refused(write({"a": Raw(quantized)}), "torch.QInt8Storage")


def test_storages_that_view_others_are_refused(tmp_path, refused):
    """PyTorch wrote them before version 0.4."""
    path, value = tmp_path / "weights.pt", {"a": tensor(A)}
    data = torch_files.Pickler(legacy=True).dumps(value)
    torch_files.write_legacy(path, value, data.replace(b"K\x06NtQ", b"K\x06)tQ"))
    refused(path, "unsupported storage")


def test_a_dtype_that_is_none_is_refused(write, refused):
    data = torch_files.dumps(tensor(np.zeros(2, np.uint16)))[2:-1]
    refused(write({"a": Raw(data.replace(b"uint16", b"Size"))}), "invalid dtype")
