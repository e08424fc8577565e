"""The prediction contract of a task: the methods that `python -m research.predict` calls.

Training and evaluation never import this module's implementations, so a task's predictor may import
image and plotting libraries.
"""

import abc
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from research.common.errors import UserError
from research.data.dataset import Dataset
from research.task import Tree

if TYPE_CHECKING:
    from PIL.Image import Image


class Predictor(abc.ABC):
    """Converts user inputs to examples, and predictions to tables, JSON and pictures.

    Each task implements one in `research/tasks/NAME/predictor.py` and returns it from
    `Task.predictor()`.
    """

    input_kind: ClassVar[str] = "file"
    """Kind of the inputs, "file" or "text"; also the name of their column in tables."""

    @abc.abstractmethod
    def preprocess(self, item: str) -> Dataset:
        """Loads one input, without targets, as one example or as the parts of a long one.

        Args:
          item: a file path, or the text itself where `input_kind` is "text".

        Raises:
          UserError: the input cannot be read as an input of this task.
        """

    @abc.abstractmethod
    def postprocess(self, predictions: Sequence[Mapping[str, np.ndarray]]) -> dict[str, Any]:
        """Converts the predictions of one input, one per part, to a JSON-serialisable result.

        The result is one line of `--json`, and one row of the table unless `to_rows` returns
        others. Tables omit values that are lists.
        """

    def to_rows(self, result: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Returns the table rows of a result, all with the same keys."""
        return [dict(result)]

    def visualize(self, item: str, result: Mapping[str, Any]) -> "Image | None":
        """Draws a result onto its input; None where the task has no picture."""
        return None

    def check_visualizes(self) -> None:
        """Raises UserError where the task does not implement `visualize`."""
        if type(self).visualize is Predictor.visualize:
            raise UserError(f"{self._task_name} does not draw pictures; leave --pictures out")

    def stream(self, params: Tree, variables: Tree, path: Path) -> Iterator[dict[str, Any]]:
        """Yields results while a file is being read, each as soon as it is final.

        Raises:
          UserError: the file cannot be read, or the task or its model does not support streaming.
        """
        raise UserError(f"{self._task_name} does not support streaming; leave --stream out")

    @property
    def _task_name(self) -> str:
        return type(self).__name__.removesuffix("Predictor")
