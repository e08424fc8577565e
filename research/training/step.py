"""The functions that run on the devices: the training step and the evaluation step."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from research.hardware.target import loops_are_slow
from research.task import Average, Batch, Task, Tree
from research.training.state import InferenceState, TrainState


def train_step(
    task: Task,
    optimizer: optax.GradientTransformationExtraArgs,
    learning_rate: optax.Schedule,
    gradient_accumulation_steps: int,
    ema_decay: float,
    seed: int,
) -> Callable[[TrainState, Batch], tuple[TrainState, jax.Array]]:
    """Returns a pure function `(state, batch) -> (state, loss)`, to be jitted with donation."""

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, jax.Array]:
        # The key depends only on the seed and the step, so a resumed run draws the same numbers.
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        gradients, averages, variables = _gradients(
            task, state, batch, key, gradient_accumulation_steps
        )
        loss = averages["loss"]
        # The gradient of the sum, divided by the count, is exact for any number of devices.
        gradients = jax.tree.map(lambda g: g / jnp.maximum(loss.count, 1), gradients)
        mean_loss = loss.total / jnp.maximum(loss.count, 1)
        updates, opt_state = optimizer.update(
            gradients, state.opt_state, state.params, value=mean_loss
        )
        params = optax.apply_updates(state.params, updates)
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
            ema=None if state.ema is None else _update_ema(state, params, ema_decay),
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


def _gradients(
    task: Task, state: TrainState, batch: Batch, key: jax.Array, parts: int
) -> tuple[Tree, dict[str, Average], Tree]:
    """Returns gradients of the summed loss, metrics and new variables, accumulated over parts."""

    def loss_sum(params: Tree, variables: Tree, part: Batch, key: jax.Array) -> tuple[Any, Any]:
        averages, variables = task.loss(params, variables, part, key, train=True)
        return averages["loss"].total, (averages, variables)

    gradient = jax.grad(loss_sum, has_aux=True)
    if parts == 1:
        gradients, (averages, variables) = gradient(state.params, state.variables, batch, key)
        return gradients, averages, variables

    def accumulate(carry: Any, part: tuple[Batch, jax.Array]) -> tuple[Any, None]:
        gradients, averages, variables = carry
        more, (more_averages, variables) = gradient(state.params, variables, *part)
        added = jax.tree.map(jnp.add, (gradients, averages), (more, more_averages))
        return (*added, variables), None

    inputs = jax.tree.map(lambda x: _split(x, parts), batch), jax.random.split(key, parts)
    first = jax.tree.map(lambda x: x[0], inputs)
    zeros = jax.tree.map(
        lambda x: jnp.zeros(x.shape, x.dtype),
        jax.eval_shape(gradient, state.params, state.variables, *first),
    )
    gradients, (averages, _) = zeros
    begin = (gradients, averages, state.variables)
    carry, _ = jax.lax.scan(accumulate, begin, inputs, unroll=loops_are_slow())
    return carry


def _split(x: jax.Array, parts: int) -> jax.Array:
    """Reshapes to [parts, batch / parts, ...], without moving examples between devices."""
    return jnp.moveaxis(x.reshape(-1, parts, *x.shape[1:]), 1, 0)


def _update_ema(state: TrainState, params: Tree, decay: float) -> Tree:
    """Returns the moving average with decay min(decay, (1 + t) / (10 + t)), as in TensorFlow."""
    t = state.step.astype(jnp.float32)
    keep = jnp.minimum(decay, (1 + t) / (10 + t))
    return jax.tree.map(lambda old, new: keep * old + (1 - keep) * new, state.ema, params)
