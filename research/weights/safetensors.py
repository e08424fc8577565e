"""Reads and writes safetensors files."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from research.common.files import write_atomically
from research.common.storage import AnyPath
from research.weights.tensors import Tensors, unreadable

_DTYPES = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": jnp.bfloat16,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U64": np.uint64,
    "U32": np.uint32,
    "U16": np.uint16,
    "U8": np.uint8,
    "BOOL": np.bool_,
    "C64": np.complex64,
}
_REMEDY = "expected a complete .safetensors file; copy or download it again"


def read_safetensors(path: Path) -> Tensors:
    """Opens a safetensors file.

    Raises:
      UserError: the file is truncated, its header contradicts its size, a name occurs twice, or a
        dtype is unsupported.
    """
    try:
        file = safe_open(path, framework="np")
    except (SafetensorError, OSError) as error:
        raise unreadable(path, error, _REMEDY) from None
    _check_names(path)
    shapes = {}
    for name in file.keys():  # noqa: SIM118 (`file` is not a mapping)
        part = file.get_slice(name)
        if part.get_dtype() not in _DTYPES:
            reason = f"tensor '{name}' has the unsupported dtype {part.get_dtype()}"
            raise unreadable(path, reason, f"convert it to one of {', '.join(_DTYPES)}")
        shapes[name] = jax.ShapeDtypeStruct(tuple(part.get_shape()), _DTYPES[part.get_dtype()])
    return Tensors(path, shapes, file.get_tensor, file.metadata() or {})


def save_safetensors(
    path: AnyPath, tensors: Mapping[str, Any], metadata: Mapping[str, str] | None = None
) -> None:
    """Writes a safetensors file: an earlier file of this name stays whole until it is replaced.

    Args:
      path: the file; its folder is created if it is missing.
      tensors: arrays of NumPy or JAX, on any device, by name.
      metadata: text to store with them, such as a license.

    Raises:
      UserError: the file cannot be written.
      ValueError: the format has no such dtype or name.
    """
    # The library writes memory as it lies, so that a transposed array needs a copy.
    arrays = {name: np.asarray(tensor, order="C") for name, tensor in tensors.items()}
    if "__metadata__" in arrays:
        raise ValueError("invalid tensor name '__metadata__': safetensors reserves it")
    try:
        data = save(arrays, dict(metadata) if metadata else None)
    except SafetensorError as error:
        raise ValueError(f"invalid tensors for {path}: {error}") from None
    write_atomically(path, data)


def _check_names(path: Path) -> None:
    """Refuses a header that names a tensor twice; the library would return the last one."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        names = dict(pairs)
        if len(names) < len(pairs):
            twice = next(key for i, (key, _) in enumerate(pairs) if key in dict(pairs[:i]))
            raise unreadable(path, f"its header contains '{twice}' twice", _REMEDY)
        return names

    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        json.loads(file.read(length), object_pairs_hook=unique)
