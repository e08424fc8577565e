"""Batch normalisation of frozen modules: inference mode inside a network that is being trained."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn


def frozen_batch_norms(paths: frozenset[str]) -> AbstractContextManager[None]:
    """Returns a context in which some `nn.BatchNorm` modules normalise by their running averages.

    They do not update the averages either: a frozen network computes the same in training as in
    inference.

    Args:
      paths: of the modules in the network that is applied, such as "backbone/BatchNorm_0".
    """

    def interceptor(
        next_function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        context: nn.module.InterceptorContext,
    ) -> Any:
        module = context.module
        if (
            isinstance(module, nn.BatchNorm)
            and context.method_name == "__call__"
            and "/".join(module.path) in paths
        ):
            return _normalize(module, args[0])
        return next_function(*args, **kwargs)

    return nn.intercept_methods(interceptor)


def _normalize(module: nn.BatchNorm, x: jax.Array) -> jax.Array:
    """Normalises [..., features] by running averages, in float32."""
    mean: jax.Array = module.get_variable("batch_stats", "mean")
    factor = jax.lax.rsqrt(module.get_variable("batch_stats", "var") + module.epsilon)
    if module.use_scale:
        factor = factor * module.get_variable("params", "scale")
    y = (x.astype(jnp.float32) - mean) * factor
    if module.use_bias:
        y = y + module.get_variable("params", "bias")
    return y.astype(module.dtype or x.dtype)
