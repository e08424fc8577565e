"""All that a training step changes, and where its parts lie."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax.struct import PyTreeNode
from jax.sharding import Mesh

from research.hardware.mesh import parameter_shardings, path_name, replicated
from research.task import Average, Task, Tree


class TrainState(PyTreeNode):
    """A pytree, saved and restored as a whole."""

    step: jax.Array  # [] int32, optimizer steps taken
    params: Tree
    variables: Tree  # such as the running averages of batch normalisation
    opt_state: Tree
    ema: Tree | None  # moving average of the parameters
    totals: dict[str, Average]  # metrics since they were last written

    @property
    def inference_params(self) -> Tree:
        """The parameters to evaluate and predict with."""
        return self.params if self.ema is None else self.ema


def initializer(
    task: Task, optimizer: optax.GradientTransformation, ema: bool, metrics: tuple[str, ...]
) -> Callable[[jax.Array], TrainState]:
    """A pure function from a key to the state before the first step."""

    def initialize(key: jax.Array) -> TrainState:
        params, variables = task.init(key)
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            params=params,
            variables=variables,
            opt_state=optimizer.init(params),
            ema=params if ema else None,
            totals={name: Average(jnp.zeros(()), jnp.zeros(())) for name in metrics},
        )

    return initialize


def state_shardings(state: TrainState, mesh: Mesh, rules: tuple[tuple[Any, ...], ...]) -> Any:
    """A `NamedSharding` for each leaf of an (abstract) state.

    What the optimizer keeps for a parameter lies where the parameter lies; all else is replicated.
    """
    params = parameter_shardings(state.params, mesh, rules)
    placed = [
        (path_name(path), leaf.shape, sharding)
        for (path, leaf), sharding in zip(
            jax.tree_util.tree_leaves_with_path(state.params), jax.tree.leaves(params), strict=True
        )
    ]

    def beside_parameter(path: Any, leaf: Any) -> Any:
        name = path_name(path)
        for suffix, shape, sharding in placed:
            if leaf.shape == shape and (name == suffix or name.endswith("/" + suffix)):
                return sharding
        return replicated(mesh)

    elsewhere = jax.tree.map(lambda _: replicated(mesh), state)
    return elsewhere.replace(
        params=params,
        opt_state=jax.tree_util.tree_map_with_path(beside_parameter, state.opt_state),
        ema=None if state.ema is None else params,
    )
