import pickle
import random
import tracemalloc
import zipfile

import numpy as np
import pytest

from research.common.errors import UserError
from research.weights.pytorch import read_pytorch
from tests.weights import torch_files
from tests.weights.torch_files import DTYPES, View, random_array, tensor

A, B = np.arange(6, dtype=np.float32).reshape(2, 3), np.array([1, -2], np.int64)


@pytest.mark.parametrize("dtype", DTYPES)
def test_big_endian_files_are_read(write_zip, dtype):
    array = random_array(dtype, np.random.default_rng(0))
    tensors = read_pytorch(write_zip({"x": tensor(array)}, byteorder="big"))
    assert tensors["x"].tobytes() == array.tobytes()


def test_truncated_files_are_refused(write, refused):
    path = write({"a": tensor(A), "b": tensor(B)})
    data = path.read_bytes()
    for length in range(1, len(data), 5):
        path.write_bytes(data[:length])
        refused(path)


@pytest.mark.parametrize("seed", range(5))
def test_damaged_files_are_read_or_refused(write, seed):
    path, rng = write({"a": tensor(A), "b": tensor(B)}), random.Random(seed)
    data = path.read_bytes()
    for _ in range(100):
        damaged = bytearray(data)
        for _ in range(rng.randint(1, 3)):
            damaged[rng.randrange(len(data))] = rng.randrange(256)
        path.write_bytes(damaged)
        try:
            tensors = read_pytorch(path)
            assert all(tensors[name].shape == tensors.shapes[name].shape for name in tensors)
        except UserError:
            pass


def test_a_changed_bit_is_refused_in_the_zip_format(write_zip):
    path = write_zip({"a": tensor(A), "b": tensor(B)})
    data = path.read_bytes()
    path.write_bytes(data.replace(A.tobytes(), (A + 1).tobytes()))
    tensors = read_pytorch(path)
    assert np.array_equal(tensors["b"], B)
    with pytest.raises(UserError, match="checksum"):
        tensors["a"]


def test_a_file_that_shrinks_after_it_is_opened_is_refused(write):
    path = write({"a": tensor(A)})
    tensors = read_pytorch(path)
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(UserError, match="truncated"):
        tensors["a"]


def test_a_storage_of_absurd_length_is_refused_without_allocating_it(write, refused):
    path = write({"a": View(A.reshape(-1), (2**40,), (1,), length=2**40)})
    tracemalloc.start()
    refused(path, "truncated")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**21


def test_a_compressed_archive_is_refused_without_inflating_it(write_zip, refused):
    bomb = {"a": tensor(np.zeros(2**24, np.float32))}
    path = write_zip(bomb, compression=zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 2**17
    tracemalloc.start()
    refused(path, "compressed")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**20


def test_a_record_that_occurs_twice_is_refused(write_zip, refused):
    path = write_zip({"a": tensor(A)})
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("archive/data/0", B.tobytes())
    refused(path, "twice")


def test_a_missing_storage_is_refused(tmp_path, refused):
    with zipfile.ZipFile(tmp_path / "weights.pt", "w") as archive:
        archive.writestr("archive/data.pkl", torch_files.dumps({"a": tensor(A)}))
    refused(tmp_path / "weights.pt", "tensor 'a'", "missing")


def test_another_archive_is_refused(tmp_path, refused):
    with zipfile.ZipFile(tmp_path / "weights.pt", "w") as archive:
        archive.writestr("word/document.xml", "<xml/>")
    refused(tmp_path / "weights.pt", "data.pkl")


def test_a_damaged_header_of_a_record_is_refused(write_zip, refused):
    path = write_zip({"a": tensor(A)})
    data = path.read_bytes()
    start = data.index(b"PK\x03\x04", data.index(b"little"))
    path.write_bytes(data[:start] + b"XX" + data[start + 2 :])
    refused(path, "archive/data/0 is damaged")


def test_the_size_of_the_pickle_is_limited(write_zip, monkeypatch, refused):
    monkeypatch.setattr("research.weights.containers._MAX_PICKLE_BYTES", 100)
    refused(write_zip({"a": tensor(A)}), "more than 100 bytes")


def test_a_legacy_storage_of_another_length_is_refused(tmp_path, refused):
    path = tmp_path / "weights.pt"
    torch_files.write_legacy(path, {"a": View(A.reshape(-1), (7,), (1,), length=7)})
    path.write_bytes(path.read_bytes() + bytes(100))
    refused(path, "truncated")


def test_a_pickle_without_the_magic_number_is_refused(tmp_path, refused):
    path = tmp_path / "weights.pt"
    torch_files.write_legacy(path, {"a": tensor(A)})
    magic = pickle.dumps(torch_files.MAGIC, 2)
    path.write_bytes(path.read_bytes().replace(magic, pickle.dumps(torch_files.MAGIC + 1, 2)))
    refused(path, "torch.save has not written")


def test_an_unknown_byte_order_is_refused(write_zip, refused):
    refused(write_zip({"a": tensor(A)}, byteorder="middle"), "byte order")
