"""Datasets: examples by random access."""

import abc
import logging
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numpy as np

from research.common.errors import UserError

Example = dict[str, np.ndarray]
Shapes = Mapping[str, tuple[int, ...]]  # of the arrays of one example, by name
Bucket = int | tuple[int, ...]  # the length that examples are padded to, or one per side
log = logging.getLogger(__name__)
_NAMED = 20  # number of unusable examples to log; a large data set may have thousands


class Dataset(abc.ABC):
    """A fixed number of examples, read by index from several threads at once.

    An example belongs to the smallest bucket, by the sum of its sides, that is at least as long on
    every side. Examples longer than every bucket are dropped.
    """

    lengths: np.ndarray | None = None
    """Lengths of the examples: [examples], or [examples, sides] for e.g. pairs of sequences; None
    for examples of fixed shape."""

    buckets: tuple[Bucket, ...] = ()
    """Lengths that examples are padded to: ints, or tuples of one int per side."""

    unusable: dict[int, str]
    """The reason for each example that could not be read, by index."""

    def __init__(self) -> None:
        self.unusable = {}

    @abc.abstractmethod
    def __len__(self) -> int: ...

    @abc.abstractmethod
    def example(self, index: int, rng: np.random.Generator) -> Example | None:
        """Returns an example; calls `skip` and returns None if it cannot be read.

        Args:
          index: position in the dataset.
          rng: a generator that depends on (seed, epoch, index) alone.
        """

    def skip(self, index: int, reason: str) -> None:
        """Marks an example as unusable, and logs the first few of them."""
        if index in self.unusable:
            return
        self.unusable[index] = reason
        if len(self.unusable) <= _NAMED:
            log.warning("skipped example %d: %s", index, reason)
        elif len(self.unusable) == _NAMED + 1:
            log.warning("skipped more than %d examples; further ones are not logged", _NAMED)

    def batch(self, indices: np.ndarray, seed: tuple[int, ...], shapes: Shapes | None) -> Example:
        """Returns examples stacked to [batch, ...], and `mask` [batch], 0 for unusable ones.

        Args:
          indices: positions in the dataset, [batch] int.
          seed: seed of the examples' random generators.
          shapes: the shapes that arrays are padded to with zeros at their end; None for examples of
            fixed shape.

        Raises:
          UserError: no example of the dataset is usable, or the names of their arrays differ.
        """
        examples = list(_pool().map(lambda i: self._seeded(int(i), seed), indices))
        mask = np.array([example is not None for example in examples], np.float32)
        # Unusable examples are replaced, so that batch statistics are those of real examples.
        filler = next((example for example in examples if example is not None), None)
        filler = filler or self._any_example(seed)
        filled = [example or filler for example in examples]
        for index, one in zip(indices, filled, strict=True):
            if one.keys() != filler.keys():
                problem = f"invalid example {index} with the arrays {', '.join(sorted(one))}"
                raise UserError(f"{problem}: expected {', '.join(sorted(filler))}")
        stacked = {
            name: np.stack([_pad(one[name], shapes[name] if shapes else None) for one in filled])
            for name in filler
        }
        return stacked | {"mask": mask}

    def _seeded(self, index: int, seed: tuple[int, ...]) -> Example | None:
        return self.example(index, np.random.default_rng((*seed, index)))

    def _any_example(self, seed: tuple[int, ...]) -> Example:
        for index in range(len(self)):
            if example := self._seeded(index, seed):
                return example
        raise UserError(f"no usable example among {len(self)}; the first: {self.unusable[0]}")


class ArrayDataset(Dataset):
    """Examples in memory, as arrays [examples, ...].

    Args:
      arrays: by name, all of one length.
    """

    def __init__(self, **arrays: np.ndarray):
        super().__init__()
        self.arrays = arrays

    def __len__(self) -> int:
        return len(next(iter(self.arrays.values())))

    def example(self, index: int, rng: np.random.Generator) -> Example:
        return {name: array[index] for name, array in self.arrays.items()}

    def batch(self, indices: np.ndarray, seed: tuple[int, ...], shapes: Shapes | None) -> Example:
        # One gather per array is a hundred times faster than a loop over small images.
        stacked = {name: array[indices] for name, array in self.arrays.items()}
        return stacked | {"mask": np.ones(len(indices), np.float32)}


class Subset(Dataset):
    """The examples of another dataset at `indices`, in that order."""

    def __init__(self, parent: Dataset, indices: np.ndarray):
        super().__init__()
        self.parent, self.indices = parent, indices
        self.unusable = parent.unusable
        self.buckets = parent.buckets
        self.lengths = None if parent.lengths is None else parent.lengths[indices]

    def __len__(self) -> int:
        return len(self.indices)

    def example(self, index: int, rng: np.random.Generator) -> Example | None:
        return self.parent.example(int(self.indices[index]), rng)

    def batch(self, indices: np.ndarray, seed: tuple[int, ...], shapes: Shapes | None) -> Example:
        return self.parent.batch(self.indices[indices], seed, shapes)


class Concatenation(Dataset):
    """The examples of several datasets of the same arrays, one dataset after the other."""

    def __init__(self, parts: Sequence[Dataset]):
        super().__init__()
        self.parts = parts
        self.starts = np.cumsum([0, *map(len, parts)])
        self.buckets = tuple(dict.fromkeys(bucket for part in parts for bucket in part.buckets))
        lengths = [part.lengths for part in parts if part.lengths is not None]
        self.lengths = np.concatenate(lengths) if lengths else None

    def __len__(self) -> int:
        return int(self.starts[-1])

    def example(self, index: int, rng: np.random.Generator) -> Example | None:
        part = int(np.searchsorted(self.starts, index, side="right")) - 1
        return self.parts[part].example(index - int(self.starts[part]), rng)


def _pad(array: np.ndarray, shape: tuple[int, ...] | None) -> np.ndarray:
    if shape is None or array.shape == shape:
        return array
    # An example that replaces an unusable one may belong to a longer bucket; its mask is 0.
    array = array[tuple(map(slice, shape))]
    missing = np.subtract(shape, array.shape)
    return np.pad(array, [(0, int(count)) for count in missing])


@cache
def _pool() -> ThreadPoolExecutor:
    """Returns the threads that read examples; decoding and file reads release the GIL."""
    return ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="examples")
