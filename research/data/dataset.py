"""What the pipeline reads from: examples by random access."""

import abc

import numpy as np

Example = dict[str, np.ndarray]


class Dataset(abc.ABC):
    """A fixed number of examples, read by index from several threads at once.

    Where examples differ in length, `lengths` [examples] gives each one's and `buckets` the padded
    lengths that batches come in, ascending. An example longer than the last bucket is left out.
    """

    lengths: np.ndarray | None = None
    buckets: tuple[int, ...] = ()

    def __init__(self) -> None:
        self.unusable: dict[int, str] = {}  # index -> why, filled as examples are met

    @abc.abstractmethod
    def __len__(self) -> int: ...

    @abc.abstractmethod
    def example(self, index: int, rng: np.random.Generator) -> Example | None:
        """One example; `rng` is a pure function of (seed, epoch, index).

        None, with the reason left in `unusable`, for one that cannot be read and may be skipped.
        """

    def batch(self, indices: np.ndarray, seed: tuple[int, ...], length: int | None) -> Example:
        """Examples stacked to [batch, ...], and `mask` [batch], 0 where one was unusable.

        With `length`, every array whose first axis is shorter is padded with zeros to it.
        """
        examples = [self.example(int(i), np.random.default_rng((*seed, int(i)))) for i in indices]
        usable = [example for example in examples if example is not None]
        if not usable:
            raise ValueError(f"a whole batch is unusable: {self.unusable[int(indices[0])]}")
        # An unusable place repeats a good example, so that batch statistics stay those of data.
        filled = [usable[0] if example is None else example for example in examples]
        stacked = {
            name: np.stack([_pad(example[name], length) for example in filled])
            for name in usable[0]
        }
        mask = np.array([example is not None for example in examples], np.float32)
        return stacked | {"mask": mask}


class ArrayDataset(Dataset):
    """Examples that lie in memory as arrays [examples, ...]."""

    def __init__(self, **arrays: np.ndarray):
        super().__init__()
        self.arrays = arrays

    def __len__(self) -> int:
        return len(next(iter(self.arrays.values())))

    def example(self, index: int, rng: np.random.Generator) -> Example:
        return {name: array[index] for name, array in self.arrays.items()}

    def batch(self, indices: np.ndarray, seed: tuple[int, ...], length: int | None) -> Example:
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

    def batch(self, indices: np.ndarray, seed: tuple[int, ...], length: int | None) -> Example:
        return self.parent.batch(self.indices[indices], seed, length)


def _pad(array: np.ndarray, length: int | None) -> np.ndarray:
    if length is None or array.ndim == 0 or array.shape[0] >= length:
        return array
    return np.pad(array, [(0, length - array.shape[0])] + [(0, 0)] * (array.ndim - 1))
