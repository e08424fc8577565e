"""The two functions that run on the devices: a training step and an evaluation step."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from research.hardware.mesh import loops_are_slow
from research.task import Average, Batch, Task, Tree
from research.training.state import TrainState


def train_step(
    task: Task,
    optimizer: optax.GradientTransformation,
    learning_rates: optax.Schedule,
    accumulate: int,
    ema_decay: float,
    seed: int,
) -> Callable[[TrainState, Batch], tuple[TrainState, jax.Array]]:
    """A pure function `(state, batch) -> (state, loss)`, to be jitted with the state donated."""

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, jax.Array]:
        # The key is a function of the seed and the step alone, so a resumed run draws the same.
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        gradients, totals, variables = _gradients(task, state, batch, key, accumulate)
        loss = totals["loss"]
        # A sum over examples becomes the gradient of the mean, for any number of devices and parts.
        gradients = jax.tree.map(lambda g: g / jnp.maximum(loss.count, 1), gradients)
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        one = jnp.ones(())
        totals |= {
            "gradient_norm": Average(optax.tree.norm(gradients), one),
            "learning_rate": Average(jnp.asarray(learning_rates(state.step), jnp.float32), one),
        }
        new_state = TrainState(
            step=state.step + 1,
            params=params,
            variables=variables,
            opt_state=opt_state,
            ema=None if state.ema is None else _average(state, params, ema_decay),
            totals=jax.tree.map(jnp.add, state.totals, totals),
        )
        return new_state, loss.total / jnp.maximum(loss.count, 1)

    return step


def metric_names(task: Task, state_inputs: tuple[Any, Any], batch: Any) -> tuple[str, ...]:
    """The names of the totals that a training step adds up, found without computing anything."""
    params, variables = state_inputs
    key = jax.eval_shape(lambda: jax.random.key(0))
    loss = lambda p, v, b, k: task.loss(p, v, b, k, train=True)[0]  # noqa: E731
    return (*jax.eval_shape(loss, params, variables, batch, key), "gradient_norm", "learning_rate")


def evaluate_step(
    task: Task, targets: tuple[str, ...]
) -> Callable[[Tree, Tree, Batch], tuple[dict[str, Average], Batch, Batch]]:
    """A pure function `(params, variables, batch) -> (totals, predictions, targets)`."""

    def step(
        params: Tree, variables: Tree, batch: Batch
    ) -> tuple[dict[str, Average], Batch, Batch]:
        totals, _ = task.loss(params, variables, batch, jax.random.key(0), train=False)
        # XLA computes once what `loss` and `predict` have in common.
        predictions = task.predict(params, variables, batch)
        return totals, predictions, {name: batch[name] for name in (*targets, "index", "mask")}

    return step


def _gradients(
    task: Task, state: TrainState, batch: Batch, key: jax.Array, accumulate: int
) -> tuple[Tree, dict[str, Average], Tree]:
    """Gradients of the summed loss, metrics, and new variables, over all parts of a batch."""

    def loss_sum(params: Tree, variables: Tree, part: Batch, key: jax.Array) -> tuple[Any, Any]:
        totals, variables = task.loss(params, variables, part, key, train=True)
        return totals["loss"].total, (totals, variables)

    gradient = jax.grad(loss_sum, has_aux=True)
    if accumulate == 1:
        gradients, (totals, variables) = gradient(state.params, state.variables, batch, key)
        return gradients, totals, variables

    def one_part(carry: Any, part: tuple[Batch, jax.Array]) -> tuple[Any, None]:
        gradients, totals, variables = carry
        more, (more_totals, variables) = gradient(state.params, variables, *part)
        added = jax.tree.map(jnp.add, (gradients, totals), (more, more_totals))
        return (*added, variables), None

    parts = jax.tree.map(lambda x: _split(x, accumulate), batch)
    keys = jax.random.split(key, accumulate)
    first = jax.tree.map(lambda x: x[0], (parts, keys))
    zeros = jax.tree.map(
        lambda x: jnp.zeros(x.shape, x.dtype),
        jax.eval_shape(gradient, state.params, state.variables, *first),
    )
    gradients, (totals, _) = zeros
    begin = (gradients, totals, state.variables)
    carry, _ = jax.lax.scan(one_part, begin, (parts, keys), unroll=loops_are_slow())
    return carry


def _split(x: jax.Array, parts: int) -> jax.Array:
    """[batch, ...] to [parts, batch / parts, ...], each device keeping the examples it has."""
    return jnp.moveaxis(x.reshape(-1, parts, *x.shape[1:]), 1, 0)


def _average(state: TrainState, params: Tree, decay: float) -> Tree:
    """The moving average, shorter at the start, min(decay, (1 + t) / (10 + t)), as TensorFlow's."""
    t = state.step.astype(jnp.float32)
    keep = jnp.minimum(decay, (1 + t) / (10 + t))
    return jax.tree.map(lambda old, new: keep * old + (1 - keep) * new, state.ema, params)
