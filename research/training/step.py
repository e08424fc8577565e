"""The functions that run on the devices: the training step and the evaluation step."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from research.common.patterns import path_name
from research.hardware.target import loops_are_slow
from research.layers.frozen import frozen_batch_norms
from research.task import Average, Batch, Task, Tree
from research.training.state import InferenceState, TrainState
from research.training.trainable import NEVER, mask_frozen, merge, split


def train_step(
    task: Task,
    optimizer: optax.GradientTransformationExtraArgs,
    learning_rate: optax.Schedule,
    unfreeze_steps: Tree,
    gradient_accumulation_steps: int,
    ema_decay: float,
    seed: int,
) -> Callable[[TrainState, Batch], tuple[TrainState, jax.Array]]:
    """Returns a pure function `(state, batch) -> (state, loss)`, to be jitted with donation.

    Args:
      task: computes the loss.
      optimizer: of the trainable parameters.
      learning_rate: only logged; the optimizer contains it.
      unfreeze_steps: the step from which each parameter is trained (`training/trainable.py`).
      gradient_accumulation_steps: parts that a batch is processed in.
      ema_decay: of the moving average of the parameters, where the state has one.
      seed: of all randomness.
    """

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, jax.Array]:
        # The key depends only on the seed and the step, so a resumed run draws the same numbers.
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        trainable, frozen = split(state.params, unfreeze_steps)
        steps, _ = split(unfreeze_steps, unfreeze_steps)
        loss_sum = _loss_sum(task, frozen, _frozen_modules(unfreeze_steps))
        gradients, averages, variables = _gradients(
            loss_sum, trainable, state.variables, batch, key, gradient_accumulation_steps
        )
        gradients = mask_frozen(gradients, steps, state.step)
        loss = averages["loss"]
        # The gradient of the sum, divided by the count, is exact for any number of devices.
        gradients = jax.tree.map(lambda g: g / jnp.maximum(loss.count, 1), gradients)
        mean_loss = loss.total / jnp.maximum(loss.count, 1)
        updates, opt_state = optimizer.update(
            gradients, state.opt_state, trainable, value=mean_loss
        )
        updates = mask_frozen(updates, steps, state.step)
        params = merge(optax.apply_updates(trainable, updates), frozen)
        one = jnp.ones(())
        averages |= {
            "gradient_norm": Average(optax.tree.norm(gradients), one),
            "learning_rate": Average(jnp.asarray(learning_rate(state.step), jnp.float32), one),
        }
        new_state = TrainState(
            step=state.step + 1,
            params=params,
            variables=variables,
            opt_state=opt_state,
            ema=_update_ema(state, params, unfreeze_steps, ema_decay),
            totals=jax.tree.map(jnp.add, state.totals, averages),
        )
        return new_state, mean_loss

    return step


def metric_names(task: Task, state_inputs: tuple[Any, Any], batch: Any) -> tuple[str, ...]:
    """Returns the names of a training step's metrics by abstract evaluation.

    Args:
      task: the task whose `loss` returns the metrics.
      state_inputs: abstract parameters and other variables.
      batch: an abstract batch.
    """
    params, variables = state_inputs
    key = jax.eval_shape(lambda: jax.random.key(0))
    loss = lambda p, v, b, k: task.loss(p, v, b, k, train=True)[0]  # noqa: E731
    return (*jax.eval_shape(loss, params, variables, batch, key), "gradient_norm", "learning_rate")


def evaluate_step(
    task: Task, targets: tuple[str, ...]
) -> Callable[[InferenceState, Batch], tuple[dict[str, Average], Batch, Batch]]:
    """Returns a pure function `(state, batch) -> (averages, predictions, targets)`."""

    def step(state: InferenceState, batch: Batch) -> tuple[dict[str, Average], Batch, Batch]:
        params, variables = state.params, state.variables
        averages, _ = task.loss(params, variables, batch, jax.random.key(0), train=False)
        # XLA computes the subexpressions that `loss` and `predict` share once.
        predictions = task.predict(params, variables, batch)
        return averages, predictions, {name: batch[name] for name in (*targets, "index", "mask")}

    return step


def _frozen_modules(unfreeze_steps: Tree) -> frozenset[str]:
    """The paths of all modules whose parameters are never trained."""
    modules: dict[str, bool] = {}
    for path, step in jax.tree_util.tree_leaves_with_path(unfreeze_steps):
        module = path_name(path).rpartition("/")[0]
        modules[module] = modules.get(module, True) and step == NEVER
    return frozenset(module for module, frozen in modules.items() if frozen)


def _loss_sum(task: Task, frozen: Tree, frozen_modules: frozenset[str]) -> Callable[..., Any]:
    """Returns the function of trainable parameters to the summed loss, metrics and variables."""

    def loss_sum(trainable: Tree, variables: Tree, batch: Batch, key: jax.Array) -> Any:
        with frozen_batch_norms(frozen_modules):
            params = merge(trainable, frozen)
            averages, variables = task.loss(params, variables, batch, key, train=True)
        return averages["loss"].total, (averages, variables)

    return loss_sum


def _gradients(
    loss_sum: Callable[..., Any],
    params: Tree,
    variables: Tree,
    batch: Batch,
    key: jax.Array,
    parts: int,
) -> tuple[Tree, dict[str, Average], Tree]:
    """Gradients of the summed loss, metrics, and new variables, over all parts of a batch."""
    gradient = jax.grad(loss_sum, has_aux=True)
    if parts == 1:
        gradients, (averages, variables) = gradient(params, variables, batch, key)
        return gradients, averages, variables

    def accumulate(carry: Any, part: tuple[Batch, jax.Array]) -> tuple[Any, None]:
        gradients, averages, variables = carry
        more, (more_averages, variables) = gradient(params, variables, *part)
        added = jax.tree.map(jnp.add, (gradients, averages), (more, more_averages))
        return (*added, variables), None

    inputs = jax.tree.map(lambda x: _split(x, parts), batch), jax.random.split(key, parts)
    first = jax.tree.map(lambda x: x[0], inputs)
    zeros = jax.tree.map(
        lambda x: jnp.zeros(x.shape, x.dtype),
        jax.eval_shape(gradient, params, variables, *first),
    )
    gradients, (averages, _) = zeros
    begin = (gradients, averages, variables)
    carry, _ = jax.lax.scan(accumulate, begin, inputs, unroll=loops_are_slow())
    return carry


def _split(x: jax.Array, parts: int) -> jax.Array:
    """Reshapes to [parts, batch / parts, ...], without moving examples between devices."""
    return jnp.moveaxis(x.reshape(-1, parts, *x.shape[1:]), 1, 0)


def _update_ema(state: TrainState, params: Tree, unfreeze_steps: Tree, decay: float) -> Tree | None:
    """The moving average with TensorFlow's warm-up, decay min(decay, (1 + t) / (10 + t))."""
    if state.ema is None:
        return None
    t = state.step.astype(jnp.float32)
    keep = jnp.minimum(decay, (1 + t) / (10 + t))

    def average(old: jax.Array, new: jax.Array, step: int) -> jax.Array:
        return old if step == NEVER else keep * old + (1 - keep) * new

    return jax.tree.map(average, state.ema, params, unfreeze_steps)
