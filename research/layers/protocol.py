"""Checks of a model against what its task calls: the user's own may lack a part of it."""

import inspect
from collections.abc import Iterable, Mapping
from typing import Any

from flax import linen as nn

from research.common.errors import ConfigError


def check_interface(model: Any, inputs: tuple[str, ...], attributes: tuple[str, ...] = ()) -> None:
    """Checks that a task can call a model as `model(*inputs, train=...)`.

    Args:
      model: the value of the config's key `model`.
      inputs: names of the arrays that the task passes by position.
      attributes: names of further methods and attributes that the task uses.

    Raises:
      ConfigError: the model is not a Flax module, lacks an attribute, or takes other arguments.
    """
    kind = type(model).__name__
    if not isinstance(model, nn.Module):
        raise ConfigError("type", f"invalid class {kind}: expected a Flax module (flax.linen)")
    missing = [name for name in attributes if not hasattr(model, name)]
    if not callable(model):
        missing.append("__call__")
    if missing:
        raise ConfigError("type", f"missing methods or fields of {kind}: add {', '.join(missing)}")
    signature = inspect.signature(model)
    try:
        signature.bind(*inputs, train=False)
    except TypeError:
        expected = f"expected (self, {', '.join(inputs)}, train)"
        given = ", ".join(("self", *signature.parameters))
        problem = f"invalid arguments of {kind}.__call__, ({given}): {expected}"
        raise ConfigError("type", problem) from None


def check_outputs(model: Any, outputs: Any, expected: Mapping[str, tuple[int, ...]]) -> None:
    """Checks the shapes of a model's outputs for a batch of one example.

    Args:
      model: the network.
      outputs: what it returned: an array, or a tuple of several.
      expected: shapes by the name of the output with its dimensions, "logits [batch, classes]".

    Raises:
      ConfigError: a shape differs, or the number of outputs.
    """
    given = outputs if isinstance(outputs, tuple) else (outputs,)
    shapes = [getattr(array, "shape", type(array).__name__) for array in given]
    if shapes != list(expected.values()):
        problem = f"invalid outputs of {type(model).__name__}, of shape {_listed(shapes)}"
        remedy = f"return {' and '.join(expected)}, here {_listed(expected.values())}"
        raise ConfigError("task.model", f"{problem}; {remedy}")


def _listed(shapes: Iterable[Any]) -> str:
    return " and ".join(str(list(one) if isinstance(one, tuple) else one) for one in shapes)
