import json
import struct
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.common.errors import UserError
from research.weights.safetensors import read_safetensors, save_safetensors

DTYPES = (
    *("float64", "float32", "float16", "bfloat16", "complex64", "bool"),
    *("int64", "int32", "int16", "int8", "uint64", "uint32", "uint16", "uint8"),
)


def raw(header, data=b""):
    header = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(header)) + header + data


def entry(dtype="F32", shape=(2,), offsets=(0, 8)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def refused(path, *words):
    with pytest.raises(UserError) as error:
        dict(read_safetensors(path))
    assert str(path) in str(error.value) and "\n" not in str(error.value)
    assert all(word in str(error.value) for word in words), error.value


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (0, 3), (5,), (2, 3, 4)])
def test_what_is_saved_is_read_bit_by_bit(tmp_path, dtype, shape):
    dtype = np.dtype(getattr(jnp, dtype))
    bits = np.random.default_rng(0).integers(0, 2, (*shape, dtype.itemsize), dtype=np.uint8)
    array = np.frombuffer(bits.tobytes(), dtype).reshape(shape)
    save_safetensors(tmp_path / "x.safetensors", {"a/b": array}, {"license": "MIT"})
    tensors = read_safetensors(tmp_path / "x.safetensors")
    assert list(tensors) == ["a/b"] and tensors.metadata == {"license": "MIT"}
    assert tensors.shapes["a/b"] == jax.ShapeDtypeStruct(shape, dtype)
    assert tensors["a/b"].dtype == dtype and tensors["a/b"].shape == shape
    assert tensors["a/b"].tobytes() == array.tobytes()


@pytest.mark.parametrize("seed", range(10))
def test_views_are_saved_as_they_appear(tmp_path, seed):
    rng = np.random.default_rng(seed)
    array = rng.normal(size=rng.integers(2, 6, 4)).astype(np.float32)
    view = array.transpose(rng.permutation(4))[:: rng.choice([1, 2, -1]), 1:]
    save_safetensors(tmp_path / "x", {"x": view, "big": view.astype(">f4")})
    tensors = read_safetensors(tmp_path / "x")
    assert np.array_equal(tensors["x"], view) and np.array_equal(tensors["big"], view)


def test_arrays_of_jax_are_saved(tmp_path):
    array = jnp.arange(6, dtype=jnp.bfloat16).reshape(2, 3)
    save_safetensors(tmp_path / "new" / "x", {"x": array})
    read = read_safetensors(tmp_path / "new" / "x")["x"]
    assert read.dtype == array.dtype and np.array_equal(read, np.asarray(array))


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "x.safetensors"
    save_safetensors(path, {"x": np.zeros(2)})

    def full(self, data):
        with self.open("wb") as file:
            file.write(data[:20])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(UserError, match="No space left"):
        save_safetensors(path, {"x": np.ones(2)})
    assert np.array_equal(read_safetensors(path)["x"], np.zeros(2))


@pytest.mark.parametrize(
    "tensors", [{"x": np.array(["a"])}, {"x": np.zeros(2, object)}, {"__metadata__": np.zeros(2)}]
)
def test_unsupported_arrays_are_not_saved(tmp_path, tensors):
    with pytest.raises(ValueError, match="invalid tensor"):
        save_safetensors(tmp_path / "x", tensors)
    assert not (tmp_path / "x").exists()


def test_every_truncation_is_refused(tmp_path):
    path = tmp_path / "x.safetensors"
    save_safetensors(path, {"a": np.arange(3.0), "b": np.zeros((0, 2))}, {"k": "v"})
    data = path.read_bytes()
    for length in range(len(data)):
        path.write_bytes(data[:length])
        refused(path, "download it again")


@pytest.mark.parametrize(
    "content",
    [
        raw({"a": entry(offsets=(0, 800))}, bytes(8)),
        raw({"a": entry(shape=(2**62, 4))}, bytes(8)),
        raw({"a": entry(shape=(-2,))}, bytes(8)),
        raw({"a": entry(shape=(3,))}, bytes(8)),
        raw({"a": entry(), "b": entry()}, bytes(8)),
        raw({"a": entry("F3")}, bytes(8)),
        raw({"a": entry()}, bytes(9)),
        raw(b'{"a":'),
        raw(b"[" * 100_000),
        struct.pack("<Q", 2**60) + b"{}",
    ],
)
def test_headers_that_contradict_the_file_are_refused(tmp_path, content):
    (tmp_path / "x").write_bytes(content)
    refused(tmp_path / "x")


def test_a_name_that_occurs_twice_is_refused(tmp_path):
    one = json.dumps({"weight": entry()})[1:-1]
    (tmp_path / "x").write_bytes(raw(f"{{{one},{one}}}".encode(), bytes(8)))
    refused(tmp_path / "x", "'weight' twice")


def test_an_unsupported_dtype_is_refused(tmp_path):
    (tmp_path / "x").write_bytes(raw({"a": entry("F8_E4M3", (8,))}, bytes(8)))
    refused(tmp_path / "x", "'a'", "F8_E4M3")
