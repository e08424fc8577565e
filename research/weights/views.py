"""The tensors in a pickle of PyTorch: strided views of storages, which several may share."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pickle import UnpicklingError
from typing import Any

import jax.numpy as jnp
import numpy as np

from research.weights.unpickle import Global, new_dict

_MAX_DIMENSIONS = 64  # of a NumPy array

_SCALARS: Mapping[str, Any] = {
    "float64": np.float64,
    "float32": np.float32,
    "float16": np.float16,
    "bfloat16": jnp.bfloat16,
    "float8_e4m3fn": jnp.float8_e4m3fn,
    "float8_e5m2": jnp.float8_e5m2,
    "int64": np.int64,
    "int32": np.int32,
    "int16": np.int16,
    "int8": np.int8,
    "uint64": np.uint64,
    "uint32": np.uint32,
    "uint16": np.uint16,
    "uint8": np.uint8,
    "bool": np.bool_,
    "complex64": np.complex64,
    "complex128": np.complex128,
}
_DTYPES = {f"torch.{name}": np.dtype(scalar) for name, scalar in _SCALARS.items()}
_STORAGES = {
    f"torch.{module}{name}Storage": _DTYPES[f"torch.{dtype}"]
    for module in ("", "cuda.")
    for name, dtype in {
        "Double": "float64",
        "Float": "float32",
        "Half": "float16",
        "BFloat16": "bfloat16",
        "Long": "int64",
        "Int": "int32",
        "Short": "int16",
        "Char": "int8",
        "Byte": "uint8",
        "Bool": "bool",
        "ComplexFloat": "complex64",
        "ComplexDouble": "complex128",
    }.items()
} | {"torch.storage.UntypedStorage": np.dtype(np.uint8)}


@dataclass(frozen=True)
class Storage:
    """A one-dimensional array that the file contains."""

    key: str
    dtype: np.dtype
    length: int  # elements

    @property
    def nbytes(self) -> int:
        """Its size in bytes."""
        return self.length * self.dtype.itemsize


@dataclass(frozen=True)
class View:
    """A tensor: a strided view of a storage."""

    storage: Storage
    dtype: np.dtype
    offset: int  # in elements, as the strides
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """The size in bytes of an array that holds its elements."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def end(self) -> int:
        """The byte of the storage behind its last element."""
        if 0 in self.shape:
            return 0
        steps = zip(self.shape, self.strides, strict=True)
        last = self.offset + sum((size - 1) * stride for size, stride in steps)
        return (last + 1) * self.dtype.itemsize


def persistent_load(identifier: Any) -> Storage:
    """Returns the storage of a persistent id, `("storage", class, key, device, length[, None])`.

    Raises:
      UnpicklingError: the storage class is unsupported.
      ValueError: the id is invalid.
    """
    if not isinstance(identifier, tuple) or not 5 <= len(identifier) <= 6:
        raise ValueError("invalid persistent id")
    kind, cls, key, _, length, *view = identifier
    if kind != "storage" or not isinstance(cls, Global) or not isinstance(key, str):
        raise ValueError("invalid persistent id")
    if cls.name not in _STORAGES or view not in ([], [None]):
        raise UnpicklingError(f"it contains an unsupported storage of class {cls.name}")
    (length,) = _sizes((length,))
    return Storage(key, _STORAGES[cls.name], length)


def _sizes(values: Any) -> tuple[int, ...]:
    """Checks a shape or strides."""
    if not isinstance(values, tuple) or len(values) > _MAX_DIMENSIONS:
        raise ValueError("invalid shape")
    if not all(type(value) is int and 0 <= value < 2**63 for value in values):
        raise ValueError("invalid shape")
    return values


def _tensor(
    storage: Any,
    offset: Any,
    shape: Any,
    strides: Any,
    requires_grad: Any = False,
    backward_hooks: Any = None,
    metadata: Any = None,
) -> View:
    """Replaces `torch._utils._rebuild_tensor` and `_rebuild_tensor_v2`."""
    if not isinstance(storage, Storage) or len(_sizes(shape)) != len(_sizes(strides)):
        raise ValueError("invalid tensor")
    if metadata:
        raise UnpicklingError("it contains a lazily conjugated or negated tensor")
    (offset,) = _sizes((offset,))
    return View(storage, storage.dtype, offset, shape, strides)


def _tensor_of_dtype(
    storage: Any,
    offset: Any,
    shape: Any,
    strides: Any,
    requires_grad: Any,
    backward_hooks: Any,
    dtype: Any,
    metadata: Any = None,
) -> View:
    """Replaces `torch._utils._rebuild_tensor_v3`, whose storages are untyped."""
    view = _tensor(storage, offset, shape, strides, metadata=metadata)
    if not isinstance(dtype, Global) or dtype.name not in _DTYPES:
        raise ValueError("invalid dtype")
    return View(storage, _DTYPES[dtype.name], offset, view.shape, view.strides)


def _parameter(data: Any, *_: Any) -> Any:
    """Replaces `torch._utils._rebuild_parameter`."""
    return data


def _ignore(*_: Any) -> None:
    """Replaces classes of values that a checkpoint contains beside its tensors."""


FUNCTIONS: Mapping[str, Callable[..., Any]] = dict.fromkeys((*_STORAGES, *_DTYPES), _ignore) | {
    "collections.OrderedDict": new_dict,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor_of_dtype,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch.Size": _ignore,
    "torch.device": _ignore,
    "collections.Counter": _ignore,
    "argparse.Namespace": _ignore,
    "builtins.set": _ignore,
    "__builtin__.set": _ignore,
    "_codecs.encode": _ignore,
    "numpy.dtype": _ignore,
    "numpy.ndarray": _ignore,
    "numpy.core.multiarray.scalar": _ignore,
    "numpy._core.multiarray.scalar": _ignore,
    "numpy.core.multiarray._reconstruct": _ignore,
    "numpy._core.multiarray._reconstruct": _ignore,
}
"""Called in place of the functions and classes that a pickle names; it may name no others."""
