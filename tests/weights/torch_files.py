"""Writes the two formats of `torch.save` without PyTorch, with the same opcodes."""

import io
import pickle
import struct
import zipfile
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np

STORAGE_CLASSES = {
    "float64": "Double",
    "float32": "Float",
    "float16": "Half",
    "bfloat16": "BFloat16",
    "int64": "Long",
    "int32": "Int",
    "int16": "Short",
    "int8": "Char",
    "uint8": "Byte",
    "bool": "Bool",
    "complex64": "ComplexFloat",
    "complex128": "ComplexDouble",
}
NEW_DTYPES = ("uint16", "uint32", "uint64", "float8_e4m3fn", "float8_e5m2")
DTYPES = (*STORAGE_CLASSES, *NEW_DTYPES)
MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001


@dataclass(frozen=True, eq=False)
class View:
    """A tensor: a view of a one-dimensional array, with strides in elements."""

    storage: np.ndarray
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int = 0
    length: int | None = None  # of the storage; another one than it has makes the file invalid


@dataclass(frozen=True)
class Parameter:
    """A `torch.nn.Parameter`."""

    view: View


@dataclass(frozen=True)
class Raw:
    """Opcodes that push one value."""

    opcodes: bytes


class OrderedDict(dict):
    """Written as `collections.OrderedDict`, with an attribute `_metadata` like a state_dict."""


def tensor(array) -> View:
    array = np.asarray(array)
    return View(array.reshape(-1), array.shape, np.empty(array.shape, "u1").strides)


class Pickler:
    """Protocol 2; strings and globals that occur again are read from the memo.

    Attributes:
      storages: that the pickled tensors view, by their key.
    """

    def __init__(self, legacy: bool):
        self._legacy = legacy
        self.storages: dict[str, np.ndarray] = {}
        self._memo: dict[Any, int] = {}

    def dumps(self, value: Any) -> bytes:
        return b"\x80\x02" + self._value(value) + b"."

    def _value(self, value: Any) -> bytes:
        match value:
            case Raw():
                return value.opcodes
            case View():
                return self._view(value)
            case Parameter():
                arguments = self._tuple(self._view(value.view), b"\x88", self._empty_ordered_dict())
                return self._global("torch._utils", "_rebuild_parameter") + arguments + b"R"
            case dict():
                return self._dict(value)
            case list():
                return b"](" + b"".join(map(self._value, value)) + b"e"
            case tuple():
                return self._tuple(*map(self._value, value))
            case str():
                data = value.encode()
                return self._once(value, b"X" + struct.pack("<I", len(data)) + data)
        return pickle.dumps(value, 2)[2:-1]  # None, bool, int, float

    def _dict(self, value: dict) -> bytes:
        empty, state = b"}", b""
        if isinstance(value, OrderedDict):
            empty = self._empty_ordered_dict()
        items = b"".join(self._value(key) + self._value(value[key]) for key in value)
        if isinstance(value, OrderedDict):
            state = b"}" + self._value("_metadata") + self._empty_ordered_dict() + b"sb"
        return empty + b"(" + items + b"u" + state

    def _view(self, view: View) -> bytes:
        dtype = view.storage.dtype.name
        untyped = dtype in NEW_DTYPES
        name = "_rebuild_tensor_v3" if untyped else "_rebuild_tensor_v2"
        function = self._global("torch._utils", name)
        arguments = [self._storage(view, untyped)]
        arguments += map(self._value, (view.offset, view.shape, view.strides, False))
        arguments.append(self._empty_ordered_dict())
        if untyped:
            arguments.append(self._global("torch", dtype))
        return function + self._tuple(*arguments) + b"R"

    def _storage(self, view: View, untyped: bool) -> bytes:
        key = next((key for key, one in self.storages.items() if one is view.storage), None)
        key = key or str(94173821478448 * self._legacy + len(self.storages))
        self.storages[key] = view.storage
        length = len(view.storage) if view.length is None else view.length
        kind = self._value("storage")
        if untyped:
            length *= view.storage.itemsize
            cls = self._global("torch.storage", "UntypedStorage")
        else:
            cls = self._global("torch", f"{STORAGE_CLASSES[view.storage.dtype.name]}Storage")
        end = (key, "cpu", length, None) if self._legacy else (key, "cpu", length)
        return self._tuple(kind, cls, *map(self._value, end)) + b"Q"

    def _empty_ordered_dict(self) -> bytes:
        return self._global("collections", "OrderedDict") + b")R"

    def _tuple(self, *items: bytes) -> bytes:
        start, end = {0: (b"", b")"), 1: (b"", b"\x85"), 2: (b"", b"\x86"), 3: (b"", b"\x87")}.get(
            len(items), (b"(", b"t")
        )
        return start + b"".join(items) + end

    def _global(self, module: str, name: str) -> bytes:
        return self._once((module, name), f"c{module}\n{name}\n".encode())

    def _once(self, key: Any, opcodes: bytes) -> bytes:
        """Opcodes that push a value: from the memo, if it has been pushed before."""
        is_old = key in self._memo
        index = self._memo.setdefault(key, len(self._memo))
        argument = bytes([index]) if index < 256 else struct.pack("<I", index)
        if is_old:
            return (b"h" if index < 256 else b"j") + argument
        return opcodes + (b"q" if index < 256 else b"r") + argument


def random_array(dtype: str, rng: np.random.Generator) -> np.ndarray:
    """24 elements of random bits; for bool, 0 or 1."""
    scalar = np.dtype(getattr(jnp, dtype, dtype))
    if dtype == "bool":
        return rng.integers(0, 2, 24).astype(bool)
    return np.frombuffer(rng.bytes(24 * scalar.itemsize), scalar)


def dumps(value: Any) -> bytes:
    """The data.pkl of a value."""
    return Pickler(legacy=False).dumps(value)


def write_zip(path, value, byteorder="little", compression=zipfile.ZIP_STORED):
    """Writes the zip format."""
    pickler = Pickler(legacy=False)
    pickled = pickler.dumps(value)
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/byteorder", byteorder)
        for key, storage in pickler.storages.items():
            archive.writestr(f"archive/data/{key}", _bytes(storage, byteorder))
        archive.writestr("archive/version", "3\n")


def write_legacy(path, value, data=None):
    """Writes the legacy format; `data` replaces the pickle."""
    pickler, file = Pickler(legacy=True), io.BytesIO()
    system = {"protocol_version": PROTOCOL, "little_endian": True, "type_sizes": {"int": 4}}
    for header in (MAGIC, PROTOCOL, system):
        pickle.dump(header, file, protocol=2)
    pickled = pickler.dumps(value)
    file.write(pickled if data is None else data)
    pickle.dump(sorted(pickler.storages), file, protocol=2)
    for _, storage in sorted(pickler.storages.items()):
        untyped = storage.dtype.name in NEW_DTYPES
        file.write(struct.pack("<q", storage.nbytes if untyped else len(storage)))
        file.write(_bytes(storage, "little"))
    path.write_bytes(file.getvalue())


def _bytes(storage: np.ndarray, byteorder: str) -> bytes:
    if byteorder == "little":
        return storage.tobytes()
    size = storage.itemsize // (2 if storage.dtype.kind == "c" else 1)
    return storage.view(f"u{size}").byteswap().tobytes()
