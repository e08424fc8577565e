"""An experiment compiled for devices: mesh, shardings and the jitted functions."""

import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from jax.stages import Lowered

from research.common.errors import ConfigError
from research.common.patterns import path_name
from research.common.progress import activity
from research.data.dataset import Bucket
from research.hardware.mesh import (
    batch_sharding,
    batch_shards,
    replicated,
    shares_cores,
    with_sharding,
)
from research.hardware.target import compile_for, traced_for
from research.task import Tree
from research.training.experiment import Experiment
from research.training.initialize import is_loaded
from research.training.schedules import Schedule
from research.training.state import InferenceState, TrainState, initial_state, state_shardings
from research.training.step import evaluate_step, metric_names, train_step
from research.training.trainable import NEVER, unfreeze_steps


class Program:
    """The functions that training, evaluation and prediction share, for one mesh.

    The constructor neither compiles nor allocates.

    Args:
      experiment: the config, resolved.
      schedule: the learning rate schedule; None without training.
      devices: devices of the mesh; None selects all available ones. Those of an ahead-of-time
        compiler's topology need not exist.

    Raises:
      ConfigError: the devices, the batch size and the sharding rules are incompatible.
    """

    def __init__(
        self,
        experiment: Experiment,
        schedule: Schedule | None = None,
        devices: Sequence[jax.Device] | None = None,
    ):
        self.experiment, self.task = experiment, experiment.task
        self.mesh = experiment.mesh.build(jax.devices() if devices is None else devices)
        self.schedule = schedule or experiment.optimizer.resolve_schedule(total_steps=1)
        experiment.check_batch(batch_shards(self.mesh))
        self.scorer_targets = self.task.scorer().targets
        # Emulated devices share cores and can deadlock with several steps in flight; elsewhere a
        # few steps in flight hide the latency of the host.
        self.steps_ahead = 0 if shares_cores(self.mesh) else 4

    def batch_size(self, length: Bucket | None) -> int:
        """Returns the batch size of a bucket; None is the bucket of examples without lengths."""
        return self.experiment.examples_per_batch(length, batch_shards(self.mesh))

    def batch_shape(self, length: Bucket | None = None) -> dict[str, jax.ShapeDtypeStruct]:
        """Returns the shapes and dtypes of a batch of the steps."""
        size = self.batch_size(length)
        return self.task.batch_spec(size, length) | {
            "mask": jax.ShapeDtypeStruct((size,), jnp.float32),
            "index": jax.ShapeDtypeStruct((size,), jnp.int32),
        }

    @cached_property
    def learning_rate(self) -> optax.Schedule:
        """Learning rate as a function of the step."""
        return self.schedule.build()

    @cached_property
    def optimizer(self) -> optax.GradientTransformationExtraArgs:
        """Optimizer with its schedule."""
        return self.experiment.optimizer.build(self.learning_rate)

    @cached_property
    def initial_shape(self) -> tuple[Tree, Tree]:
        """Shapes and dtypes of the parameters and of the other variables."""
        with compile_for(self.mesh):
            return jax.eval_shape(self.task.init, jax.eval_shape(lambda: jax.random.key(0)))

    @cached_property
    def unfreeze_steps(self) -> Tree:
        """The step from which each parameter is trained."""
        params, _ = self.initial_shape
        config, step = self.experiment.initialize, self.schedule.unfreeze_loaded
        if not (config and step):
            return unfreeze_steps(params, self.schedule.freeze)
        classes = [re.compile(pattern) for pattern, _, _ in self.task.vocabularies]

        def first_step(path: Any, leaf: Any) -> int:
            name = f"params/{path_name(path)}"
            is_new = not is_loaded(config, name) or any(c.search(name) for c in classes)
            return 0 if is_new else step

        steps = jax.tree_util.tree_map_with_path(first_step, params)
        if all(step == NEVER for step in jax.tree.leaves(steps)):
            problem = f'invalid value "{config.train}": no parameter is new'
            raise ConfigError("initialize.train", f"{problem}; list some in initialize.exclude")
        return steps

    @cached_property
    def state_shape(self) -> TrainState:
        """Shapes and dtypes of the training state."""
        return jax.eval_shape(self._initial_state, *self.initial_shape)

    @cached_property
    def shardings(self) -> Any:
        """Sharding of each leaf of the training state."""
        return state_shardings(self.state_shape, self.mesh, self.experiment.mesh.rules)

    def initialize(self, loaded: Mapping[str, np.ndarray] | None = None) -> TrainState:
        """Computes the state before the first step, each parameter sharded from the start.

        Args:
          loaded: arrays that replace initial parameters and variables, by their paths, such as
            "params/head/kernel" or "batch_stats/BatchNorm_0/mean"; masked entries do not.
        """
        values = {path: np.ma.getdata(array) for path, array in (loaded or {}).items()}
        masks = {
            path: np.ma.getmaskarray(array)
            for path, array in (loaded or {}).items()
            if isinstance(array, np.ma.MaskedArray)
        }

        def initialize(values: Mapping[str, Any], masks: Mapping[str, Any]) -> TrainState:
            params, variables = self.task.init(jax.random.key(self.experiment.seed))

            def value(path: Any, initial: jax.Array) -> jax.Array:
                name = path_name(path)
                loaded = values.get(name, initial)
                return jnp.where(masks[name], initial, loaded) if name in masks else loaded

            tree = {"params": params, **variables}
            tree = jax.tree_util.tree_map_with_path(value, tree)
            return self._initial_state(tree.pop("params"), tree)

        initialize = jax.jit(traced_for(self.mesh, initialize), out_shardings=self.shardings)
        with activity("compiling the initialization"):
            return initialize(values, masks)

    @cached_property
    def train_step(self):
        """Jitted function `(state, batch) -> (state, loss)`; the state is donated."""
        experiment = self.experiment
        step = train_step(
            self.task,
            self.optimizer,
            self.learning_rate,
            self.unfreeze_steps,
            experiment.gradient_accumulation_steps,
            experiment.ema_decay,
            experiment.seed,
        )
        jitted = jax.jit(
            traced_for(self.mesh, step),
            in_shardings=(self.shardings, batch_sharding(self.mesh)),
            out_shardings=(self.shardings, replicated(self.mesh)),
            donate_argnums=0,
        )
        return Step("training step", jitted)

    def lower_train_step(self, length: Bucket | None = None) -> Lowered:
        """Lowers the training step for the batches of a bucket.

        The shapes carry shardings, as the arrays of a training do: `train_step` then calls the
        program that this compiles to, and does not compile it again.
        """
        sharding = batch_sharding(self.mesh)
        state = jax.tree.map(with_sharding, self.state_shape, self.shardings)
        batch = {
            name: with_sharding(shape, sharding) for name, shape in self.batch_shape(length).items()
        }
        return self.train_step.lower(state, batch)

    @cached_property
    def evaluate_step(self):
        """Jitted function `(state, batch) -> (averages, predictions, targets)`.

        It takes an `InferenceState`; its results are replicated.
        """
        return self._inference_step(
            "evaluation step", evaluate_step(self.task, self.scorer_targets)
        )

    @cached_property
    def predict_step(self):
        """Jitted function `(state, batch) -> predictions`, replicated."""

        def step(state: InferenceState, batch: Any) -> Any:
            return self.task.predict(state.params, state.variables, batch)

        return self._inference_step("prediction step", step)

    def _inference_step(self, name: str, step: Any) -> "InferenceStep":
        shardings = self.shardings
        state = InferenceState(
            step=shardings.step, params=shardings.params, variables=shardings.variables
        )
        return InferenceStep(name, step, state, self.task.tables(), self.mesh)

    @cached_property
    def _initial_state(self):
        with compile_for(self.mesh):
            metrics = metric_names(self.task, self.initial_shape, self.batch_shape())
        ema = self.experiment.ema_decay > 0
        return initial_state(self.optimizer, self.unfreeze_steps, ema, metrics)


class Step:
    """A jitted function of a state and a batch, whose compilations are shown.

    Args:
      name: of the step.
      function: the jitted function; it may have further arguments.
    """

    def __init__(self, name: str, function: Any):
        self._name, self._function = name, function
        self._compiled: set[tuple[Any, ...]] = set()

    def __call__(self, state: Any, batch: Any, *more: Any) -> Any:
        """Returns the result of the function."""
        shapes = tuple(array.shape for array in batch.values())
        if shapes in self._compiled:
            return self._function(state, batch, *more)
        self._compiled.add(shapes)
        name, largest = max(batch.items(), key=lambda item: item[1].size)
        with activity(f"compiling the {self._name} for {name} {list(largest.shape)}"):
            return self._function(state, batch, *more)

    def lower(self, *arguments: Any) -> Any:
        """Returns the lowered program, given arrays or their shapes and dtypes."""
        return self._function.lower(*arguments)


class InferenceStep:
    """A jitted function `(state, batch)`, whose further argument are the tables of the task.

    Args:
      name: of the step.
      step: a pure function of state and batch.
      shardings: of the state.
      tables: of the task; replicated on every device.
      mesh: of the program.
    """

    def __init__(self, name: str, step: Any, shardings: InferenceState, tables: Tree, mesh: Mesh):
        def with_tables(state: InferenceState, batch: Any, tables: Tree) -> Any:
            return step(state.replace(variables={**state.variables, **tables}), batch)

        self._tables, self._mesh = tables, mesh
        jitted = jax.jit(
            traced_for(mesh, with_tables),
            in_shardings=(shardings, batch_sharding(mesh), replicated(mesh)),
            out_shardings=replicated(mesh),
        )
        self._step = Step(name, jitted)

    def __call__(self, state: InferenceState, batch: Any) -> Any:
        """Returns the results of the step, replicated."""
        return self._step(state, batch, self._tables_on_devices)

    def lower(self, state: Any, batch: Any) -> Any:
        """Returns the lowered program, given arrays or their shapes and dtypes."""
        return self._step.lower(state, batch, self._tables)

    @cached_property
    def _tables_on_devices(self) -> Tree:
        return jax.device_put(self._tables, replicated(self._mesh))
