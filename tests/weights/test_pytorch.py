import random
import tracemalloc
import zipfile
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from research.common.errors import UserError
from research.weights.pytorch import read_pytorch
from tests.weights import torch_files
from tests.weights.torch_files import DTYPES, OrderedDict, Parameter, Raw, View, tensor

WRITERS = {"zip": torch_files.write_zip, "legacy": torch_files.write_legacy}
A, B = np.arange(6, dtype=np.float32).reshape(2, 3), np.array([1, -2], np.int64)


@pytest.fixture(params=WRITERS)
def write(request, tmp_path):
    """Writes a value in both formats and returns the path."""

    def write(value, **options):
        WRITERS[request.param](tmp_path / "weights.pt", value, **options)
        return tmp_path / "weights.pt"

    return write


@pytest.fixture
def write_zip(tmp_path):
    def write(value, **options):
        torch_files.write_zip(tmp_path / "weights.pt", value, **options)
        return tmp_path / "weights.pt"

    return write


def refused(path, *words):
    """Asserts that a file is refused in one line with these words."""
    with pytest.raises(UserError) as error:
        dict(read_pytorch(path))
    message = str(error.value)
    assert str(path) in message and "\n" not in message
    assert all(word in message for word in words), message


def array_of(dtype, random):
    """Random bits, but for bool."""
    dtype = np.dtype(getattr(jnp, dtype, dtype))
    if dtype == np.bool_:
        return random.integers(0, 2, 24).astype(bool)
    return np.frombuffer(random.bytes(24 * dtype.itemsize), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_is_read_bit_by_bit(write, dtype):
    array = array_of(dtype, np.random.default_rng(0)).reshape(2, 3, 4)
    tensors = read_pytorch(write(OrderedDict(x=tensor(array))))
    assert tensors["x"].dtype == array.dtype and tensors["x"].shape == (2, 3, 4)
    assert tensors["x"].tobytes() == array.tobytes()


@pytest.mark.parametrize("dtype", DTYPES)
def test_big_endian_files_are_read(write_zip, dtype):
    array = array_of(dtype, np.random.default_rng(0))
    tensors = read_pytorch(write_zip({"x": tensor(array)}, byteorder="big"))
    assert tensors["x"].tobytes() == array.tobytes()


@pytest.mark.parametrize("seed", range(40))
def test_random_views_equal_their_definition(write, seed):
    """Element i of a view is element offset + i @ strides of its storage."""
    rng = np.random.default_rng(seed)
    storage = array_of(rng.choice(DTYPES), rng)
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


def test_values_beside_the_tensors_are_left_out(write):
    # As pickled: numpy.float64(0.5) and argparse.Namespace(x=1).
    scalar = b"cnumpy._core.multiarray\nscalar\ncnumpy\ndtype\nU\x02f8\x89\x88\x87R"
    scalar += b"(K\x03U\x01<NNNtbc_codecs\nencode\nU\x01aU\x06latin1\x86R\x86R"
    namespace = b"cargparse\nNamespace\n)\x81}U\x01xK\x01sb"
    value = {"a": Parameter(tensor(A)), "n": 3, "none": None, "list": [1.5, (True,), "x"]}
    tensors = read_pytorch(write(value | {"s": Raw(scalar), "args": Raw(namespace)}))
    assert list(tensors) == ["a"] and np.array_equal(tensors["a"], A)


STATE = OrderedDict(a=tensor(A), b=tensor(B))
OTHER = OrderedDict(a=tensor(A + 1))


@pytest.mark.parametrize(
    "checkpoint",
    [
        STATE,
        {"state_dict": STATE, "epoch": 3},
        {"model": STATE, "optimizer": {"state": {0: {"step": tensor(B)}}}},
        {"model_state": STATE},
        {"model": {"state_dict": STATE}},
        {"model": OTHER, "ema": STATE},
        {"state_dict": OTHER, "state_dict_ema": STATE},
        {"ema": {"decay": 0.99}, "model": STATE},
        {"module.a": tensor(A), "module.b": tensor(B)},
        {"module._orig_mod.a": tensor(A), "module._orig_mod.b": tensor(B)},
    ],
)
def test_the_state_dict_of_a_checkpoint_is_found(write, checkpoint):
    tensors = read_pytorch(write(checkpoint))
    assert list(tensors) == ["a", "b"]
    assert np.array_equal(tensors["a"], A) and np.array_equal(tensors["b"], B)


def test_a_prefix_of_some_names_stays(write):
    assert list(read_pytorch(write({"module.a": tensor(A), "b": tensor(B)}))) == ["module.a", "b"]


@pytest.mark.parametrize("value", [{}, [tensor(A)], tensor(A), {"lr": 1.0}, {1: tensor(A)}])
def test_a_file_without_named_tensors_is_refused(write, value):
    refused(write(value), "no tensors", "torch.save(model.state_dict(), FILE)")


def test_the_keys_of_another_checkpoint_are_named(write):
    refused(write({"encoder": STATE, "decoder": STATE}), "encoder, decoder")


def test_a_checkpoint_within_itself_ends(write):
    refused(write(Raw(b"}q\x09X\x05\x00\x00\x00modelh\x09s")), "no tensors")


def test_truncated_files_are_refused(write):
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
def test_a_tensor_that_does_not_fit_its_storage_is_refused(write, view, word):
    refused(write({"weight": view}), word)


def test_a_storage_of_absurd_length_is_refused_without_allocating_it(write):
    path = write({"a": View(A.reshape(-1), (2**40,), (1,), length=2**40)})
    tracemalloc.start()
    refused(path, "truncated")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**21


def test_a_name_that_occurs_twice_is_refused(write):
    twice = b"}(X\x01\x00\x00\x00aK\x01X\x01\x00\x00\x00aK\x02u"
    refused(write(Raw(twice)), "'a' twice")


def test_a_compressed_archive_is_refused_without_inflating_it(write_zip):
    bomb = {"a": tensor(np.zeros(2**24, np.float32))}
    path = write_zip(bomb, compression=zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 2**17
    tracemalloc.start()
    refused(path, "compressed")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**20


def test_a_record_that_occurs_twice_is_refused(write_zip):
    path = write_zip({"a": tensor(A)})
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("archive/data/0", B.tobytes())
    refused(path, "twice")


def test_a_missing_storage_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "weights.pt", "w") as archive:
        archive.writestr("archive/data.pkl", torch_files.dumps({"a": tensor(A)}))
    refused(tmp_path / "weights.pt", "tensor 'a'", "missing")


def test_another_archive_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "weights.pt", "w") as archive:
        archive.writestr("word/document.xml", "<xml/>")
    refused(tmp_path / "weights.pt", "data.pkl")


def test_an_unknown_byte_order_is_refused(write_zip):
    path = write_zip({"a": tensor(A)})
    path.write_bytes(path.read_bytes().replace(b"little", b"middle"))
    refused(path)


def test_other_kinds_of_tensors_are_refused(write):
    sparse = b"ctorch._utils\n_rebuild_sparse_tensor\n)R"
    refused(write({"a": Raw(sparse)}), "torch._utils._rebuild_sparse_tensor")


EXPLOITS = {
    "os.system": b"cos\nsystem\nX\x0a\x00\x00\x00touch %s\x85R",
    "posix.system": b"cposix\nsystem\nX\x0a\x00\x00\x00touch %s\x85R",
    "builtins.eval": b"cbuiltins\neval\nX\x07\x00\x00\x00open(0)\x85R",
    "builtins.getattr": b"cbuiltins\ngetattr\nNN\x86R",
    "torch.load": b"ctorch\nload\nX\x01\x00\x00\x00x\x85R",
    "torch.hub.load": b"ctorch.hub\nload\nX\x01\x00\x00\x00x\x85R",
    "collections.OrderedDict.fromkeys": b"ccollections\nOrderedDict.fromkeys\n)R",
    "numpy.testing._private.utils.runstring": b"cnumpy.testing._private.utils\nrunstring\n)R",
}


@pytest.mark.parametrize("name", EXPLOITS)
def test_a_pickle_that_executes_code_is_refused(write, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    exploit = EXPLOITS[name].replace(b"%s", b"evil")
    path = write({"a": tensor(A), "b": Raw(exploit)})
    refused(path, f"'{name}'", "not part of a state_dict")
    assert not Path("evil").exists()
