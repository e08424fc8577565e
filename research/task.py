"""The training contract of a task: everything that the engine knows about one.

A task is a frozen dataclass whose fields are its config. The engine in `research/training/` calls
only the methods below. `research/predictor.py` has those that `predict` calls.
"""

import abc
import importlib
import pkgutil
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Protocol, Self

import jax
from flax.struct import PyTreeNode

from research.data.dataset import Bucket, Dataset, Example
from research.weights.conversion import Preprocessing

if TYPE_CHECKING:
    from research.predictor import Predictor
    from research.reporting.figures import Figure

Batch = dict[str, jax.Array]
Tree = Any  # a pytree of arrays
Vocabularies = tuple[tuple[str, int, tuple[str, ...]], ...]
"""(pattern, axis, names): the parameters with a slice for each of these classes or tokens."""


class Average(PyTreeNode):
    """A metric as a total and a count, which can be summed over batches, devices and processes."""

    total: jax.Array  # [] float32
    count: jax.Array  # [] float32


class Metric(NamedTuple):
    """How reports show a metric. The default is a number without unit."""

    title: str
    unit: str = ""  # "%" for fractions
    scale: float = 1.0  # factor of the shown number, 100 for percentages
    better: Literal["higher", "lower", ""] = ""  # "" for neither

    def number(self, value: float) -> str:
        """Returns a value without its unit, such as "98.67"."""
        if isinstance(value, int):
            return f"{value:,}"
        return f"{value * self.scale:.2f}" if self.unit == "%" else f"{value * self.scale:.4g}"

    def text(self, value: float) -> str:
        """Returns a value with its unit, such as "98.67 %"."""
        return f"{self.number(value)} {self.unit}".rstrip()


def percentage(title: str, better: Literal["higher", "lower"] = "higher") -> Metric:
    """Returns the metric of a fraction that is shown in percent."""
    return Metric(title, "%", 100.0, better)


class Scorer(abc.ABC):
    """Computes a field's standard metrics on the host, from predictions batch by batch.

    Every process receives every example of the split exactly once, and no padding.
    """

    targets: tuple[str, ...]
    """Names of the batch's arrays that `update` needs on the host, in addition to `index`."""

    @abc.abstractmethod
    def update(self, targets: Example, predictions: Example) -> None:
        """Adds arrays [examples, ...]; `targets["index"]` are positions in the dataset."""

    @abc.abstractmethod
    def result(self, dataset: Dataset) -> dict[str, float]:
        """Returns the metrics of all examples added so far; `dataset` is the scored one."""

    @abc.abstractmethod
    def figures(self, dataset: Dataset) -> "list[Figure]":
        """Returns the figures of a report; `dataset` is the scored one.

        Implementations import their figures here, so that training does not need them.
        """

    def notes(self) -> list[str]:
        """Returns what a reader of the metrics must know, such as why one of them is 0."""
        return []

    def signatures(self) -> list[str]:
        """Returns the lines that a paper cites with the scores, such as sacrebleu's."""
        return []


class FurtherScores(Protocol):
    """Scores that need the parameters themselves, not only predictions."""

    def metrics(self) -> dict[str, float]:
        """Returns the metrics by name."""

    def figures(self) -> "list[Figure]":
        """Returns the figures of a report."""


@cache
def _task_modules() -> dict[str, str]:
    """Returns the module of each task class, declared by `TASK` in the folder's `__init__.py`."""
    from research import tasks

    folders = [f"{tasks.__name__}.{module.name}" for module in pkgutil.iter_modules(tasks.__path__)]
    return {importlib.import_module(folder).TASK: f"{folder}.task" for folder in folders}


class _Tasks(Mapping[str, "type[Task]"]):
    """Task classes by name, imported on access."""

    def __getitem__(self, name: str) -> "type[Task]":
        return getattr(importlib.import_module(_task_modules()[name]), name)

    def __iter__(self):
        return iter(_task_modules())

    def __len__(self) -> int:
        return len(_task_modules())

    def __contains__(self, name: object) -> bool:
        return name in _task_modules()


class Task(abc.ABC):
    """A problem to learn. Subclasses are frozen dataclasses whose fields are their config."""

    metrics: ClassVar[Mapping[str, Metric]] = {}
    """Titles and units of the metrics, for reports; the first one that a run has counts most."""

    @staticmethod
    def variants() -> "Mapping[str, type[Task]]":
        """Returns the available tasks by class name, for the config language."""
        return _Tasks()

    @property
    def name_table(self) -> tuple[tuple[str, str, str], ...]:
        """Rules that convert PyTorch's parameter names (`research/weights/conversion.py`)."""
        return ()

    @property
    def preprocessing(self) -> Preprocessing:
        """The preprocessing of the inputs, which trained parameters depend on."""
        return {}

    @property
    def pretrained_preprocessing(self) -> Preprocessing:
        """The preprocessing that published parameters with the names of `name_table` expect."""
        return {}

    @property
    def vocabularies(self) -> Vocabularies:
        """Parameters with a slice for each class or token: (pattern of the path, axis, names).

        `config.initialize` finds by name what another run with another vocabulary has learned.
        """
        return ()

    def resolve(self) -> Self:
        """Returns the task with values that depend on its data filled in, such as class names.

        A run saves the resolved config, so that prediction does not need the data.
        """
        return self

    def resolve_without_data(self) -> Self:
        """Returns the task with plausible values where `resolve` would read the data.

        Steps that compile for planning need sizes, such as the number of classes, but no names.
        """
        return self

    @property
    def buckets(self) -> tuple[Bucket, ...]:
        """The lengths that training batches are padded to; empty: the examples have no lengths."""
        return ()

    @abc.abstractmethod
    def batch_spec(self, batch_size: int, length: Bucket | None) -> dict[str, jax.ShapeDtypeStruct]:
        """Returns the shapes and dtypes of a batch, without `mask` and `index`.

        Args:
          batch_size: number of examples.
          length: the bucket that examples are padded to with zeros at their end; None selects the
            largest, or means that the task's datasets have no lengths.
        """

    @abc.abstractmethod
    def dataset(self, split: str) -> Dataset:
        """Opens the examples of "train", "validation" or "test" for scoring.

        Raises:
          UserError: the data or the split are missing; the message contains the remedy.
        """

    def opened_split(self, split: str) -> str:
        """Returns the split that `dataset` opens: "validation" instead of a missing test split."""
        has_test = getattr(getattr(self, "source", None), "has_test", True)
        return "validation" if split == "test" and not has_test else split

    def training(self) -> Dataset:
        """Opens the training examples, where they differ in form from `dataset("train")`."""
        return self.dataset("train")

    @abc.abstractmethod
    def init(self, key: jax.Array) -> tuple[Tree, Tree]:
        """Returns initial parameters and other variables, such as batch statistics."""

    @abc.abstractmethod
    def loss(
        self, params: Tree, variables: Tree, batch: Batch, key: jax.Array, train: bool
    ) -> tuple[dict[str, Average], Tree]:
        """Returns metrics, one of them "loss", and new variables.

        A pure function; examples with mask 0 are excluded.
        """

    @abc.abstractmethod
    def predict(self, params: Tree, variables: Tree, batch: Batch) -> Batch:
        """Returns predictions as named arrays [batch, ...].

        A pure function of the inputs; it does not read targets.
        """

    def tables(self) -> Tree:
        """Returns large NumPy arrays that `predict` reads besides the parameters, by name.

        The engine adds them to the variables of evaluation and prediction, as arguments of the
        compiled programs, which would contain constants in full.
        """
        return {}

    @abc.abstractmethod
    def scorer(self) -> Scorer:
        """Returns a new scorer."""

    def further_scores(self, params: Tree, variables: Tree, split: str) -> FurtherScores | None:
        """Computes scores that need the parameters, such as few-shot accuracy, if there are any.

        `evaluate` adds them to those of the scorer. Evaluation during training leaves them out.
        """
        return None

    @abc.abstractmethod
    def predictor(self) -> "Predictor":
        """Returns the predictor of this task, imported only when called."""
