"""Reads PyTorch `state_dict` files without PyTorch and without executing their pickle."""

import logging
import struct
import sys
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import jax
import numpy as np

from research.weights.containers import ZIP_MAGIC, Extent, read_extent, read_legacy, read_zip
from research.weights.tensors import Tensors, unreadable
from research.weights.views import View

log = logging.getLogger(__name__)
WRAPPERS = (
    *("state_dict_ema", "model_ema", "ema"),
    *("state_dict", "model_state_dict", "model_state", "model", "module", "net", "network"),
)
"""Keys of training checkpoints that hold a `state_dict`. The first one present is read: averaged
parameters before the last ones, since they are what a publication evaluates."""
PREFIXES = ("module.", "_orig_mod.")
"""Prefixes of `DistributedDataParallel` and `torch.compile`."""
_MAX_WRAPPERS = 2  # inside each other
_MIN_LIMIT = 2**20  # bytes that a tensor may have, however small the file is
_REMEDY = "expected a file of torch.save(model.state_dict(), FILE); copy or save it again"


def read_pytorch(path: Path) -> Tensors:
    """Opens a file that `torch.save` has written.

    The `state_dict` of a training checkpoint is found by `WRAPPERS`. Values other than tensors are
    left out. `PREFIXES` are removed if all names have them.

    Raises:
      UserError: the file is damaged or contains no `state_dict`, or its pickle names a function or
        class that a `state_dict` does not need.
    """
    with _user_errors(path):
        with path.open("rb") as file:
            is_zip = file.read(len(ZIP_MAGIC)) == ZIP_MAGIC
        contents = read_zip(path) if is_zip else read_legacy(path)
        key, views = _find_state_dict(contents.value)
        if not views:
            raise UnpicklingError(f"it contains no tensors by name{_keys(contents.value)}")
        for name, view in views.items():
            _check_view(name, view, contents.extents, path.stat().st_size)
    if key:
        log.info("%s: reading '%s'", path, key)
    views = _without_prefixes(views)
    shapes = {name: jax.ShapeDtypeStruct(view.shape, view.dtype) for name, view in views.items()}

    @lru_cache(maxsize=1)  # the next tensor often shares the storage
    def read_storage(key: str) -> bytes:
        return read_extent(path, contents.extents[key])

    def read(name: str) -> np.ndarray:
        with _user_errors(path):
            return _materialize(views[name], read_storage, contents.byteorder)

    return Tensors(path, shapes, read, {})


def _find_state_dict(value: Any, depth: int = 0) -> tuple[str, dict[str, View]]:
    """Returns the dotted key of a `state_dict` in a checkpoint, and its tensors."""
    if not isinstance(value, dict) or depth > _MAX_WRAPPERS:
        return "", {}
    for wrapper in WRAPPERS:
        key, views = _find_state_dict(value.get(wrapper), depth + 1)
        if views:
            return f"{wrapper}.{key}" if key else wrapper, views
    tensors = {name: item for name, item in value.items() if isinstance(item, View)}
    return "", {name: view for name, view in tensors.items() if isinstance(name, str)}


def _keys(value: Any) -> str:
    """The keys that a file has instead of tensors."""
    if not isinstance(value, dict) or not value:
        return ""
    return f", but the keys {', '.join(str(key)[:40] for key in list(value)[:8])}"


def _without_prefixes(views: dict[str, View]) -> dict[str, View]:
    """Removes the prefixes that all names have."""
    for prefix in PREFIXES * 2:
        # The counter of `torch.optim.swa_utils.AveragedModel` has none.
        if all(name.startswith(prefix) or name == "n_averaged" for name in views):
            views = {name.removeprefix(prefix): view for name, view in views.items()}
    return views


def _check_view(name: str, view: View, extents: Mapping[str, Extent], file_size: int) -> None:
    """Checks that the file contains a tensor.

    Raises:
      UnpicklingError: its storage is missing, truncated or smaller than the tensor; or the tensor
        repeats elements so often that it takes far more memory than the file.
    """
    label = f"tensor '{name[:100]}' {list(view.shape)}"
    extent = extents.get(view.storage.key)
    if extent is None:
        raise UnpicklingError(f"the storage of {label} is missing")
    if extent.length != view.storage.nbytes or extent.offset + extent.length > file_size:
        raise UnpicklingError(f"the storage of {label} is truncated")
    if view.end > extent.length:
        raise UnpicklingError(f"{label} exceeds its storage of {extent.length} bytes")
    if view.nbytes > max(file_size, _MIN_LIMIT):
        raise UnpicklingError(f"{label} is larger than the file")


def _materialize(view: View, read: Callable[[str], bytes], byteorder: str) -> np.ndarray:
    """Copies a view of a storage to an array of native byte order."""
    if 0 in view.shape:
        return np.empty(view.shape, view.dtype)
    size = view.dtype.itemsize
    word_size = size // 2 if view.dtype.kind == "c" else size
    words = np.frombuffer(read(view.storage.key), f"u{word_size}")
    if byteorder != sys.byteorder:
        words = words.byteswap()
    if view.dtype == np.bool_:
        words = words != 0  # a byte of NumPy's bool must be 0 or 1
    strides = [stride * size for stride in view.strides]
    # This constructor refuses strides that exceed the buffer.
    strided = np.ndarray(view.shape, view.dtype, words, view.offset * size, strides)
    return np.array(strided, order="C")


@contextmanager
def _user_errors(path: Path) -> Iterator[None]:
    """Converts the errors of damaged files to a `UserError`."""
    try:
        yield
    except (
        *(UnpicklingError, zipfile.BadZipFile, OSError, EOFError, ValueError, struct.error),
        *(NotImplementedError, RuntimeError),  # of zipfile: unknown compression, encryption
    ) as error:
        reason = getattr(error, "strerror", None) or error
        raise unreadable(path, reason, _REMEDY) from None
