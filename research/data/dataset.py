"""What the pipeline reads from: examples by random access."""

import abc
import logging
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numpy as np

from research.common.errors import UserError

Example = dict[str, np.ndarray]
Shapes = Mapping[str, tuple[int, ...]]  # of one example's arrays, by name
Bucket = int | tuple[int, ...]  # what the lengths of examples are padded to
log = logging.getLogger(__name__)
_NAMED = 20  # unusable examples that are named; a large data set can have many thousands


class Dataset(abc.ABC):
    """A fixed number of examples, read by index from several threads at once.

    Where examples differ in length, `lengths` gives each one's, and `buckets` what they are padded
    to: ints for lengths [examples]; tuples of one int a side for lengths [examples, sides], such as
    those of pairs of sequences. An example goes to the smallest bucket, by the sum of its sides,
    that holds it in all sides, and one that fits none is left out.
    """

    lengths: np.ndarray | None = None
    buckets: tuple[Bucket, ...] = ()

    def __init__(self) -> None:
        self.unusable: dict[int, str] = {}  # index -> why

    @abc.abstractmethod
    def __len__(self) -> int: ...

    @abc.abstractmethod
    def example(self, index: int, rng: np.random.Generator) -> Example | None:
        """One example; `rng` is a pure function of (seed, epoch, index).

        None, after `skip`, for one that cannot be read and may be passed over.
        """

    def skip(self, index: int, why: str) -> None:
        """Notes that an example is unusable, and says so the first time, of the first few."""
        if index in self.unusable:
            return
        self.unusable[index] = why
        if len(self.unusable) <= _NAMED:
            log.warning("skipped example %d: %s", index, why)
        elif len(self.unusable) == _NAMED + 1:
            log.warning("skipped more examples, which are counted and not named")

    def batch(self, indices: np.ndarray, seed: tuple[int, ...], shapes: Shapes | None) -> Example:
        """Examples stacked to [batch, ...], and `mask` [batch], 0 where one was unusable.

        Args:
          indices: [batch] int.
          seed: of the randomness of these examples.
          shapes: what each array is padded to with zeros at its end; None leaves them as they are.
        """
        examples = list(_pool().map(lambda i: self._seeded(int(i), seed), indices))
        mask = np.array([example is not None for example in examples], np.float32)
        # An unusable place repeats a good example, so that batch statistics stay those of data.
        good = next((example for example in examples if example is not None), None)
        good = good or self._any_example(seed)
        filled = [example or good for example in examples]
        stacked = {
            name: np.stack([_pad(one[name], shapes[name] if shapes else None) for one in filled])
            for name in good
        }
        return stacked | {"mask": mask}

    def _seeded(self, index: int, seed: tuple[int, ...]) -> Example | None:
        return self.example(index, np.random.default_rng((*seed, index)))

    def _any_example(self, seed: tuple[int, ...]) -> Example:
        for index in range(len(self)):
            if example := self._seeded(index, seed):
                return example
        raise UserError(f"none of the {len(self)} examples is usable: {self.unusable[0]}")


class ArrayDataset(Dataset):
    """Examples that lie in memory as arrays [examples, ...]."""

    def __init__(self, **arrays: np.ndarray):
        super().__init__()
        self.arrays = arrays

    def __len__(self) -> int:
        return len(next(iter(self.arrays.values())))

    def example(self, index: int, rng: np.random.Generator) -> Example:
        return {name: array[index] for name, array in self.arrays.items()}

    def batch(self, indices: np.ndarray, seed: tuple[int, ...], shapes: Shapes | None) -> Example:
        # One gather for the whole batch: for small images a hundred times faster than a loop.
        stacked = {name: array[indices] for name, array in self.arrays.items()}
        return stacked | {"mask": np.ones(len(indices), np.float32)}


class Subset(Dataset):
    """Some of another dataset's examples, in the order of `indices`."""

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
    """The examples of several datasets of one kind, one dataset after the other."""

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
    # What stands in for an unusable example may be of a longer bucket; it is masked anyway.
    array = array[tuple(map(slice, shape))]
    missing = np.subtract(shape, array.shape)
    return np.pad(array, [(0, int(count)) for count in missing])


@cache
def _pool() -> ThreadPoolExecutor:
    """Threads that read examples side by side: decoding and reading files let go of the lock."""
    return ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="examples")
