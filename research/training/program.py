"""An experiment made ready for the devices: mesh, shardings and the jitted functions."""

import logging
from functools import cached_property

import jax
import jax.numpy as jnp

from research.common.errors import UserError
from research.data.dataset import Bucket, Dataset
from research.data.pipeline import Pipeline
from research.data.sampler import BatchSampler
from research.hardware.mesh import batch_sharding, batch_shards, replicated, shares_cores
from research.training.experiment import Experiment
from research.training.state import TrainState, initializer, state_shardings
from research.training.step import evaluate_step, metric_names, train_step

log = logging.getLogger(__name__)


class Program:
    """What training, evaluation and prediction share. Building it computes and allocates nothing.

    Args:
      experiment: the config, resolved.
      warmup: steps of the learning rate's warm-up.
      total: steps of the whole run; for evaluation and prediction neither matters.

    Raises:
      ConfigError: the devices, the batch or the sharding rules do not go together.
    """

    def __init__(self, experiment: Experiment, warmup: int = 0, total: int = 1):
        self.experiment, self.task = experiment, experiment.task
        self.mesh = experiment.mesh.build()
        experiment.check_batch(batch_shards(self.mesh))
        self.learning_rates = experiment.optimizer.learning_rates(warmup, total)
        self.optimizer = experiment.optimizer.build(self.learning_rates)
        self.scorer_targets = self.task.scorer().targets

        key = jax.eval_shape(lambda: jax.random.key(0))
        metrics = metric_names(self.task, jax.eval_shape(self.task.init, key), self.batch_shape())
        ema = experiment.ema_decay > 0
        self._initialize = initializer(self.task, self.optimizer, ema, metrics)
        self.state_shape = jax.eval_shape(self._initialize, key)
        self.shardings = state_shardings(self.state_shape, self.mesh, experiment.mesh.rules)
        # Steps that may be under way at once. Emulated devices wait for each other on the same
        # cores and can stick; elsewhere a few hide the latency of the host.
        self.steps_ahead = 0 if shares_cores(self.mesh) else 4

    def batch_size(self, length: Bucket | None) -> int:
        """The examples of a batch in a bucket; None: of data without lengths."""
        return self.experiment.examples_per_batch(length, batch_shards(self.mesh))

    def batch_shape(self, length: Bucket | None = None) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes and dtypes of a whole batch as the steps take it."""
        size = self.batch_size(length)
        return self.task.batch_spec(size, length) | {
            "mask": jax.ShapeDtypeStruct((size,), jnp.float32),
            "index": jax.ShapeDtypeStruct((size,), jnp.int32),
        }

    def initialize(self) -> TrainState:
        """The state before the first step; no parameter ever lies whole on one device of many."""
        initialize = jax.jit(
            lambda: self._initialize(jax.random.key(self.experiment.seed)),
            out_shardings=self.shardings,
        )
        return initialize()

    @cached_property
    def train_step(self):
        """`(state, batch) -> (state, loss)`; the state is donated."""
        experiment = self.experiment
        return jax.jit(
            train_step(
                self.task,
                self.optimizer,
                self.learning_rates,
                experiment.accumulate,
                experiment.ema_decay,
                experiment.seed,
            ),
            in_shardings=(self.shardings, batch_sharding(self.mesh)),
            out_shardings=(self.shardings, replicated(self.mesh)),
            donate_argnums=0,
        )

    @cached_property
    def evaluate_step(self):
        """`(params, variables, batch) -> (totals, predictions, targets)`, whole on all devices."""
        placed = (self.shardings.params, self.shardings.variables, batch_sharding(self.mesh))
        return jax.jit(
            evaluate_step(self.task, self.scorer_targets),
            in_shardings=placed,
            out_shardings=replicated(self.mesh),
        )

    @cached_property
    def predict_step(self):
        """`(params, variables, batch) -> predictions`, whole on all devices."""
        placed = (self.shardings.params, self.shardings.variables, batch_sharding(self.mesh))
        return jax.jit(self.task.predict, in_shardings=placed, out_shardings=replicated(self.mesh))

    def pipeline(self, dataset: Dataset, training: bool) -> Pipeline:
        """The batches of a dataset, placed for the steps."""
        sampler = BatchSampler(dataset, self.batch_size, self.experiment.seed, training)
        if not sampler.batches_per_epoch:
            raise UserError("the data have no example that fits; see the dataset's buckets")
        if training:
            longest = sampler.buckets[-1].length
            self.experiment.check_batch_length(longest, batch_shards(self.mesh))
            if sampler.num_dropped:  # evaluation counts them in its results
                log.warning(
                    "dropped %d of %d examples: longer than every bucket",
                    sampler.num_dropped,
                    len(dataset),
                )
        return Pipeline(dataset, sampler, batch_sharding(self.mesh), self._example_shapes)

    def _example_shapes(self, length: Bucket | None) -> dict[str, tuple[int, ...]]:
        spec = self.task.batch_spec(1, length)
        return {name: array.shape[1:] for name, array in spec.items()}
