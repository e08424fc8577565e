"""Frozen parameters: which ones, until when, and the two halves of a parameter tree."""

from typing import Any

import jax
import jax.numpy as jnp

from research.common.patterns import match
from research.task import Tree

NEVER = -1
"""The step from which a parameter that is frozen for the whole run is trained."""


def unfreeze_steps(params: Tree, freeze: tuple[tuple[str, int], ...]) -> Tree:
    """Returns the step from which each parameter is trained: 0, a later one, or `NEVER`.

    Args:
      params: an (abstract) tree.
      freeze: (pattern, step) pairs; the first pattern that matches decides.

    Raises:
      ConfigError: a pattern decides for no parameter.
    """
    return match(params, freeze, "optimizer.freeze", default=0)


def split(params: Tree, steps: Tree) -> tuple[Tree, Tree]:
    """Splits parameters into the trainable and the frozen ones; holes are None.

    None is an empty pytree, so optimizers and gradients do not see the holes.
    """
    trainable = jax.tree.map(lambda leaf, step: None if step == NEVER else leaf, params, steps)
    frozen = jax.tree.map(lambda leaf, step: leaf if step == NEVER else None, params, steps)
    return trainable, frozen


def merge(trainable: Tree, frozen: Tree) -> Tree:
    """Joins the results of `split`."""
    is_hole = lambda leaf: leaf is None  # noqa: E731
    return jax.tree.map(lambda a, b: b if a is None else a, trainable, frozen, is_leaf=is_hole)


def mask_frozen(tree: Tree, steps: Tree, step: jax.Array) -> Tree:
    """Sets the leaves to zero whose parameters are not trained yet at a step, an int32 scalar."""

    def masked(leaf: Any, first: int) -> Any:
        if first <= 0:
            return leaf
        return jnp.where(step >= first, leaf, jnp.zeros_like(leaf))

    return jax.tree.map(masked, tree, steps)
