"""The seam between the training engine and the problems it solves.

A task is a frozen dataclass. The engine in `research/training/` knows what stands in this file and
nothing else about any task.
"""

import abc
import importlib
import pkgutil
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import jax
import numpy as np
from flax.struct import PyTreeNode
from matplotlib.figure import Figure
from PIL.Image import Image

from research.data.dataset import Bucket, Dataset, Example
from research.errors import UserError

Batch = dict[str, jax.Array]
Tree = Any  # a pytree of arrays


class Total(PyTreeNode):
    """A metric as a sum and the count it is a mean over, so that parts of any size add up."""

    sum: jax.Array  # [] float32
    count: jax.Array  # [] float32


class Scorer(abc.ABC):
    """Computes a field's own metric on the host, from predictions seen batch by batch.

    Every process sees every example of the split exactly once; padding never arrives here.
    """

    targets: tuple[str, ...]  # entries of the batch that it needs on the host beside `index`

    @abc.abstractmethod
    def update(self, targets: Example, predictions: Example) -> None:
        """Takes arrays [examples, ...]; `targets["index"]` are positions in the dataset."""

    @abc.abstractmethod
    def result(self, dataset: Dataset) -> dict[str, float]:
        """The metrics over all that was seen; `dataset` is the one that was scored."""

    @abc.abstractmethod
    def figures(self, dataset: Dataset) -> dict[str, Figure]:
        """Pictures by title, that a person can judge; `dataset` is the one that was scored."""


class _Tasks(Mapping[str, type]):
    """The tasks by class name; `ImageClassification` is in `tasks/image_classification/task.py`."""

    def __getitem__(self, name: str) -> type:
        module = f"research.tasks.{_folder(name)}.task"
        return getattr(importlib.import_module(module), name)

    def __iter__(self):
        from research import tasks

        folders = (module.name for module in pkgutil.iter_modules(tasks.__path__))
        return ("".join(word.capitalize() for word in name.split("_")) for name in folders)

    def __len__(self) -> int:
        return len(list(iter(self)))

    def __contains__(self, name: object) -> bool:
        return name in list(iter(self))


def _folder(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()


class Task(abc.ABC):
    """One problem to learn. Subclasses are frozen dataclasses whose fields are its config."""

    input_kind: ClassVar[str] = "file"
    """What `predict` is given by the user, and the name of the column that shows it."""

    @staticmethod
    def variants() -> Mapping[str, type]:
        """The tasks there are, by class name; `research.config` asks."""
        return _Tasks()

    def resolve(self) -> Self:
        """The task with all that only its data know (class names, a vocabulary) written into it.

        A run saves the resolved config, so it can predict where its data are not.
        """
        return self

    @abc.abstractmethod
    def batch_spec(self, batch_size: int, length: Bucket | None) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes and dtypes of a batch, without `mask` and `index`, which every batch has.

        `length` is the bucket; None: the greatest, or that the task's datasets have none. Arrays
        of examples that are smaller are padded with zeros at their end to these shapes.
        """

    @abc.abstractmethod
    def dataset(self, split: str) -> Dataset:
        """The examples of "train", "validation" or "test".

        Raises:
          UserError: the data are not there, or have no such split; says how to get them.
        """

    def training(self) -> Dataset:
        """What is learned from, where that differs in form from the examples of "train"."""
        return self.dataset("train")

    @abc.abstractmethod
    def init(self, key: jax.Array) -> tuple[Tree, Tree]:
        """Parameters, and the other variables (such as running averages)."""

    @abc.abstractmethod
    def loss(
        self, params: Tree, variables: Tree, batch: Batch, key: jax.Array, train: bool
    ) -> tuple[dict[str, Total], Tree]:
        """Metrics, one of which is "loss", and the new variables. Pure; masked examples count 0."""

    @abc.abstractmethod
    def predict(self, params: Tree, variables: Tree, batch: Batch) -> Batch:
        """Predictions as named arrays [batch, ...]. Pure; reads the inputs and no targets."""

    @abc.abstractmethod
    def scorer(self) -> Scorer:
        """A fresh scorer."""

    @abc.abstractmethod
    def read(self, given: str) -> Dataset:
        """One of the user's own inputs, without targets: one example, or the parts of a long one.

        Args:
          given: the path of a file, or, where `input_kind` says so, the input itself.

        Raises:
          UserError: it cannot be read as this task's input.
        """

    @abc.abstractmethod
    def describe(self, predictions: Sequence[Mapping[str, np.ndarray]]) -> dict[str, Any]:
        """What is predicted of a file, part by part, in the user's words.

        It is a line of JSON, and a row of the table unless `rows` says otherwise. Lists are for
        machines: the table leaves them out.
        """

    def rows(self, description: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The rows of the table for what `describe` says: one, or one for each thing found."""
        return [dict(description)]

    def draw(self, given: str, description: Mapping[str, Any]) -> Image | None:
        """A picture of the input with what `describe` says; None where there is none to draw."""
        return None

    def stream(self, params: Tree, variables: Tree, path: Path) -> Iterator[dict[str, Any]]:
        """Rows of what is predicted of a file while it is being read, each as soon as it is known.

        Raises:
          UserError: the file cannot be read, or the task or its model cannot do this.
        """
        raise UserError(f"{type(self).__name__} cannot predict from a stream; leave --stream out")
