"""The training state and its sharding."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import jax
import jax.numpy as jnp
import optax
from flax.struct import PyTreeNode
from jax.sharding import Mesh

from research.common.patterns import path_name
from research.hardware.mesh import Rules, parameter_shardings, replicated
from research.task import Average, Tree
from research.training.optimizer import evaluation_params, is_schedule_free
from research.training.trainable import split


@dataclass(frozen=True)
class Progress:
    """Progress of a run, saved with each checkpoint. The default is that of a new run."""

    step: int = 0
    """Optimizer steps taken."""

    epoch: int = 0
    """Complete passes over the training data."""

    example: int = 0
    """Examples taken in the current epoch; exact even if the data set grows between restarts."""

    seconds: float = 0.0
    """Seconds of training."""

    compile_seconds: float = 0.0
    """Seconds of compilation."""

    total_seconds: float = 0.0
    """Seconds from the opening of the data, over all starts, evaluation and saving included."""

    def to_json(self) -> dict[str, Any]:
        """Returns the fields by name."""
        return dataclasses.asdict(self)


class InferenceState(PyTreeNode):
    """The part of a training state that evaluation and prediction need."""

    step: jax.Array  # [] int32, optimizer steps taken
    params: Tree  # the parameters to evaluate and predict with
    variables: Tree  # such as batch statistics


class TrainState(PyTreeNode):
    """The complete training state: the argument and result of a training step."""

    step: jax.Array  # [] int32, optimizer steps taken
    params: Tree
    variables: Tree  # such as batch statistics
    opt_state: Tree
    ema: Tree | None  # exponential moving average of the parameters
    totals: dict[str, Average]  # metrics since they were last logged

    @property
    def inference(self) -> InferenceState:
        """State to evaluate and predict with."""
        params = self.ema
        if params is None:
            params = evaluation_params(self.params, self.opt_state)
        return InferenceState(step=self.step, params=params, variables=self.variables)

    def for_inference(self) -> Self:
        """Returns this (abstract) state without the leaves that `inference` does not read."""
        opt_state = self.opt_state
        if self.ema is not None or not is_schedule_free(opt_state):
            opt_state = None
        params = self.params if self.ema is None else None
        return self.replace(params=params, opt_state=opt_state, totals={})


def initial_state(
    optimizer: optax.GradientTransformation,
    unfreeze_steps: Tree,
    ema: bool,
    metrics: tuple[str, ...],
) -> Callable[[Tree, Tree], TrainState]:
    """Returns a pure function from parameters and variables to the state before the first step."""

    def initialize(params: Tree, variables: Tree) -> TrainState:
        trainable, _ = split(params, unfreeze_steps)
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            params=params,
            variables=variables,
            opt_state=optimizer.init(trainable),
            ema=params if ema else None,
            totals={name: Average(jnp.zeros(()), jnp.zeros(())) for name in metrics},
        )

    return initialize


def state_shardings(state: TrainState, mesh: Mesh, rules: Rules) -> Any:
    """Returns a `NamedSharding` for each leaf of an (abstract) state.

    Optimizer state of a parameter is sharded like the parameter; all other leaves are replicated.
    """
    params = parameter_shardings(state.params, mesh, rules)
    known = [
        (path_name(path), leaf.shape, sharding)
        for (path, leaf), sharding in zip(
            jax.tree_util.tree_leaves_with_path(state.params), jax.tree.leaves(params), strict=True
        )
    ]
    # The longest suffix first: `head/kernel` must not take the sharding of a parameter `kernel`.
    known.sort(key=lambda parameter: -len(parameter[0]))

    def like_parameter(path: Any, leaf: Any) -> Any:
        name = path_name(path)
        for suffix, shape, sharding in known:
            if leaf.shape == shape and (name == suffix or name.endswith("/" + suffix)):
                return sharding
        return replicated(mesh)

    rest = jax.tree.map(lambda _: replicated(mesh), state)
    return rest.replace(
        params=params,
        opt_state=jax.tree_util.tree_map_with_path(like_parameter, state.opt_state),
        ema=None if state.ema is None else params,
    )
