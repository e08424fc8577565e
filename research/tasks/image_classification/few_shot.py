"""Few-shot transfer: how well a trained network learns classes with few examples.

For each number of examples per class, several draws of them are learned from the trained parameters
and, to compare, from scratch by the same method. All networks are evaluated on all test images.
"""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from research.common.errors import ConfigError, UserError
from research.common.processes import heartbeat
from research.common.progress import progress
from research.data.dataset import Dataset, Example
from research.hardware.mesh import on_host
from research.task import Tree
from research.tasks.image_classification.data import TFDS, DigitPhotographs, Digits, ImageFolder
from research.training.optimizer import Optimizer

if TYPE_CHECKING:
    from research.reporting.figures import Figure
    from research.tasks.image_classification.task import ImageClassification

HEAD = "head"  # the last layer of every classifier; its classes are new, so it starts fresh
CHUNK = 256  # images that are decoded or predicted at once
log = logging.getLogger(__name__)
Start = Callable[[jax.Array], tuple[Tree, Tree]]  # from a key to parameters and other variables
Draws = list[list[np.ndarray]]  # rows of the training split, for each number and draw


@dataclass(frozen=True)
class FewShot:
    """Few-shot evaluation: its data, its numbers of examples, and how a network learns them."""

    source: Digits | DigitPhotographs | TFDS | ImageFolder = field(default_factory=Digits)
    """Images of the new classes; examples are drawn from the training split."""

    shots: tuple[int, ...] = (1, 5, 10, 50)
    """Numbers of examples of each class."""

    draws: int = 10
    """Random draws of the examples, for each number."""

    method: Literal["fine_tuning", "linear_probe"] = "fine_tuning"
    """How they are learned: "fine_tuning" trains all parameters by Adam, with the augmentation of
    the task; "linear_probe" fits a logistic regression to the features before the last layer."""

    scratch: bool = True
    """Whether the same examples are also learned from random parameters."""

    steps: int = 200
    """Training steps of "fine_tuning"."""

    batch_size: int = 32
    """Images in a step of "fine_tuning", drawn with replacement."""

    learning_rate: float = 1e-3
    """Peak of "fine_tuning", decayed by a cosine."""

    regularization: float = 10.0
    """Inverse strength of the L2 regularization of "linear_probe", `C` in scikit-learn; features
    have unit length."""

    def __post_init__(self):
        if not self.shots or any(number < 1 for number in self.shots):
            problem = f"invalid value {self.shots}: expected at least one positive number"
            raise ConfigError("shots", problem)
        for key in ("draws", "steps", "batch_size", "learning_rate", "regularization"):
            if getattr(self, key) <= 0:
                problem = f"invalid value {getattr(self, key)}: expected a positive number"
                raise ConfigError(key, problem)


class Images(NamedTuple):
    """Images uint8 [examples, height, width, channels] and labels int32 [examples]."""

    image: np.ndarray
    label: np.ndarray


class FewShotScores:
    """Accuracies of the networks that learned from few examples.

    Args:
      shots: numbers of examples of each class.
      accuracy: accuracies [shots, draws] from "pretrained" parameters, and of the same draws from
        "scratch" where that was measured.
    """

    def __init__(self, shots: tuple[int, ...], accuracy: dict[str, np.ndarray]):
        self.shots, self.accuracy = shots, accuracy

    def metrics(self) -> dict[str, float]:
        """Returns means and deviations over the draws; `gain` is pretrained minus scratch."""
        values = dict(self.accuracy)
        if "scratch" in values:
            values["gain"] = values["pretrained"] - values["scratch"]
        results: dict[str, float] = {}
        for i, shots in enumerate(self.shots):
            for name, rows in values.items():
                results[f"{name}_at_{shots}"] = float(rows[i].mean())
                deviation = rows[i].std(ddof=rows.shape[1] > 1)
                results[f"{name}_std_at_{shots}"] = float(deviation)
        return results

    def figures(self) -> "list[Figure]":
        """Returns the accuracy over the number of examples."""
        from research.tasks.image_classification.figures import few_shot_curves

        return [few_shot_curves(self.shots, self.accuracy)]


def few_shot(
    task: "ImageClassification", params: Tree, variables: Tree, split: str
) -> FewShotScores:
    """Learns the new classes from few examples.

    Args:
      task: of the trained network, with `few_shot`.
      params: the trained parameters.
      variables: the trained network's other variables.
      split: of the new classes, to evaluate on: "train", "validation" or "test".

    Raises:
      UserError: a class has fewer training images than the largest number of `shots`.
    """
    config = task.few_shot
    assert config is not None
    trained = on_host((params, variables))
    task = replace(task, source=config.source, few_shot=None).resolve()
    pool, test = task.dataset("train"), load(task.dataset(split))
    labels = usable_labels(pool)
    counts = np.bincount(labels[labels >= 0], minlength=task.num_classes)
    rarest = int(np.argmin(counts))
    if counts[rarest] < max(config.shots):
        problem = f"class '{task.class_names[rarest]}' has {counts[rarest]} training images"
        raise UserError(f"{problem}, few_shot.shots asks for {max(config.shots)}; lower it")

    def pretrained(key: jax.Array) -> tuple[Tree, Tree]:
        fresh, _ = task.init(key)
        return {**trained[0], HEAD: fresh[HEAD]}, trained[1]

    learner: Any = FineTuning if config.method == "fine_tuning" else LinearProbe
    draws = [[draw(labels, n, seed) for seed in range(config.draws)] for n in config.shots]
    starts: dict[str, Start] = {"pretrained": pretrained}
    if config.scratch:
        starts["scratch"] = task.init
    accuracy = {name: np.zeros((len(config.shots), config.draws)) for name in starts}
    for name, start in starts.items():
        learn = learner(task, config, start, pool, draws, test)
        for i, shots in enumerate(config.shots):
            shown = progress(draws[i], f"few-shot, {name}, {shots} examples", config.draws)
            for seed, rows in enumerate(shown):
                heartbeat()
                accuracy[name][i, seed] = learn(rows, seed)
            log.info("few-shot %s, %d: accuracy %.4f", name, shots, accuracy[name][i].mean())
    return FewShotScores(config.shots, accuracy)


class FineTuning:
    """Trains all parameters on a few examples; compiled once for all numbers of them."""

    def __init__(
        self,
        task: "ImageClassification",
        config: FewShot,
        start: Start,
        pool: Dataset,
        draws: Draws,
        test: Images,
    ):
        self.config, self.pool, self.test = config, pool, test
        self.size = max(config.shots) * task.num_classes
        adam = Optimizer(name="adam", learning_rate=config.learning_rate)
        self._optimizer = adam.build(adam.resolve_schedule(config.steps).build())
        self._start = jax.jit(lambda key: self._initial(*start(key)))
        # A loop inside the program is slower: XLA's convolutions in loops use one core of a CPU.
        self._step = jax.jit(partial(self._update, task), donate_argnums=0)
        self._predict = jax.jit(task.predict)

    def __call__(self, rows: np.ndarray, seed: int) -> float:
        """Returns the accuracy on the test images after training on rows of the pool."""
        examples, count = load(self.pool, rows), len(rows)
        image, label = (jnp.asarray(_pad(array, self.size)) for array in examples)
        key, init_key = jax.random.split(jax.random.key(seed))
        state = self._start(init_key)
        for _ in range(self.config.steps):
            key, step_key = jax.random.split(key)
            state = self._step(state, image, label, count, step_key)
        params, variables, _ = state
        probability = _in_chunks(
            lambda image: self._predict(params, variables, {"image": image})["probability"],
            self.test.image,
        )
        return float((probability.argmax(-1) == self.test.label).mean())

    def _initial(self, params: Tree, variables: Tree) -> tuple[Tree, Tree, Any]:
        return params, variables, self._optimizer.init(params)

    def _update(
        self,
        task: "ImageClassification",
        state: tuple[Tree, Tree, Any],
        image: jax.Array,
        label: jax.Array,
        count: jax.Array,
        key: jax.Array,
    ) -> tuple[Tree, Tree, Any]:
        """Takes a step on a random batch of the first `count` examples."""
        params, variables, optimizer_state = state
        size = self.config.batch_size
        rows_key, key = jax.random.split(key)
        rows = jax.random.randint(rows_key, (size,), 0, count)
        batch = {"image": image[rows], "label": label[rows], "mask": jnp.ones(size)}

        def loss(params: Tree) -> tuple[jax.Array, Tree]:
            totals, new_variables = task.loss(params, variables, batch, key, train=True)
            return totals["loss"].total / size, new_variables

        gradient, variables = jax.grad(loss, has_aux=True)(params)
        updates, optimizer_state = self._optimizer.update(gradient, optimizer_state, params)
        return optax.apply_updates(params, updates), variables, optimizer_state


class LinearProbe:
    """Fits a logistic regression to the features of the frozen network."""

    def __init__(
        self,
        task: "ImageClassification",
        config: FewShot,
        start: Start,
        pool: Dataset,
        draws: Draws,
        test: Images,
    ):
        self.config = config
        params, variables = start(jax.random.key(0))
        compute = jax.jit(lambda image: features(task, params, variables, image))
        self.test, self.test_label = _in_chunks(compute, test.image), test.label
        # Draws have examples in common; the features of each are computed once.
        self.rows = np.unique(np.concatenate([rows for of_each in draws for rows in of_each]))
        chunks = np.split(self.rows, range(CHUNK, len(self.rows), CHUNK))
        parts = (load(pool, chunk) for chunk in chunks)
        found = [(_in_chunks(compute, part.image), part.label) for part in parts]
        self.features, self.label = map(np.concatenate, zip(*found, strict=True))

    def __call__(self, rows: np.ndarray, seed: int) -> float:
        """Returns the accuracy on the test images; nothing is random here."""
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import Normalizer

        regression = LogisticRegression(C=self.config.regularization, max_iter=1000)
        # Deviations of single features, from one example of each class, would be mostly noise.
        probe = make_pipeline(Normalizer(), regression)
        drawn = np.searchsorted(self.rows, rows)
        probe.fit(self.features[drawn], self.label[drawn])
        return float(probe.score(self.test, self.test_label))


def features(
    task: "ImageClassification", params: Tree, variables: Tree, image: jax.Array
) -> jax.Array:
    """Returns the input of the last layer, float32 [batch, features].

    Args:
      task: of the network.
      params: its parameters.
      variables: its other variables.
      image: uint8 [batch, height, width, channels].
    """
    captured: list[jax.Array] = []

    def capture(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        if context.module.path == (HEAD,):
            captured.append(args[0])
        return call(*args, **kwargs)

    with nn.intercept_methods(capture):
        task.predict(params, variables, {"image": image})
    return captured[0].astype(jnp.float32)


def draw(labels: np.ndarray, shots: int, seed: int) -> np.ndarray:
    """Returns the positions of `shots` random examples of each class; negative labels are none."""
    rng = np.random.default_rng((seed, shots))
    classes = [np.flatnonzero(labels == label) for label in np.unique(labels[labels >= 0])]
    return np.concatenate([rng.choice(rows, shots, replace=False) for rows in classes])


def usable_labels(dataset: Dataset) -> np.ndarray:
    """Returns the labels int32 [examples] of a dataset, -1 for unusable images."""
    batches = _batches(dataset, np.arange(len(dataset)))
    return np.concatenate([np.where(one["mask"] > 0, one["label"], -1) for one in batches])


def load(dataset: Dataset, rows: np.ndarray | None = None) -> Images:
    """Returns the usable images of a dataset, or of some of its rows."""
    batches = list(_batches(dataset, np.arange(len(dataset)) if rows is None else rows))
    image, label, mask = (
        np.concatenate([one[name] for one in batches]) for name in ("image", "label", "mask")
    )
    return Images(image[mask > 0], label[mask > 0])


def _batches(dataset: Dataset, rows: np.ndarray) -> Iterator[Example]:
    """Yields batches of examples, each the same in every call."""
    for first in range(0, len(rows), CHUNK):
        heartbeat()
        yield dataset.batch(rows[first : first + CHUNK], (0, 0), None)


def _in_chunks(function: Callable[[np.ndarray], jax.Array], images: np.ndarray) -> np.ndarray:
    """Applies a jitted function to chunks of one size, so that it is compiled once."""
    found = [images[i : i + CHUNK] for i in range(0, len(images), CHUNK)]
    return np.concatenate([np.asarray(function(_pad(one, CHUNK)))[: len(one)] for one in found])


def _pad(array: np.ndarray, size: int) -> np.ndarray:
    return np.pad(array, [(0, size - len(array))] + [(0, 0)] * (array.ndim - 1))
