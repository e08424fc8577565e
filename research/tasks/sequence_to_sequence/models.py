"""What the networks share that read one sequence and write another.

Each is a Flax module with three methods. `__call__` scores a whole target at once, as training
wants it; `begin` and `step` score one token after another, for several hypotheses of each source,
as `beam_search` wants it. Class 0 ends a sequence, and stands before its first token. `packs` tells
whether it can read several pairs in a row.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from research.common.errors import ConfigError

Tree = Any


class Pairs(NamedTuple):
    """Pairs of sequences; where several are packed into a row, segments tell them apart.

    Segments count from 1 within a row, and 0 is padding.
    """

    source: jax.Array  # int32 [batch, source_length]
    source_segments: jax.Array  # int32 [batch, source_length]
    target: jax.Array  # int32 [batch, target_length]
    target_segments: jax.Array  # int32 [batch, target_length]


def shifted(target: jax.Array) -> jax.Array:
    """The class before each of a target's, int [batch, length]; of packed ones it is the end."""
    return jnp.pad(target[:, :-1], ((0, 0), (1, 0)))


def check_sizes(model: Any, *sizes: str) -> None:
    """Raises ConfigError where one of these fields, or the dropout, makes no sense."""
    for key in sizes:
        if getattr(model, key) < 1:
            raise ConfigError(key, f"must be at least 1, is {getattr(model, key)}")
    if not 0 <= model.dropout < 1:
        raise ConfigError("dropout", f"must lie in [0, 1), is {model.dropout}")
