"""The tensors of a file by name, each read when it is accessed."""

from collections.abc import Callable, Iterator, Mapping

import jax
import numpy as np

from research.common.errors import UserError
from research.common.storage import AnyPath


class Tensors(Mapping[str, np.ndarray]):
    """The tensors of a file: a mapping from their names to arrays.

    An access reads one tensor into memory that it does not share with any other.

    Args:
      path: the file.
      shapes: the shape and the dtype of each tensor.
      read: reads the tensor of a name; raises a `UserError` if the file is damaged.
      metadata: what the file holds beside its tensors.
    """

    def __init__(
        self,
        path: AnyPath,
        shapes: Mapping[str, jax.ShapeDtypeStruct],
        read: Callable[[str], np.ndarray],
        metadata: Mapping[str, str],
    ):
        self.path, self.shapes, self.metadata = path, shapes, metadata
        self._read = read

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self.shapes:
            raise KeyError(name)
        return self._read(name)

    def __contains__(self, name: object) -> bool:
        return name in self.shapes

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)


def unreadable(path: AnyPath, reason: object, remedy: str) -> UserError:
    """Returns the error of a weights file that cannot be read."""
    return UserError(f"cannot read {path}: {reason}; {remedy}")
