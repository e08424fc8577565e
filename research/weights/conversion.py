"""Converts parameters of PyTorch models by tables of module names and layouts.

A model's table, beside the model, holds (pattern, path, layout) rules. The pattern is a regular
expression for the whole name of a PyTorch module, the path is that of our module, in which `\\1`
stands for the pattern's first group, and the layout is the kind of module:

    (r"layer1\\.0\\.conv(1)", r"block_\\1", "conv")

A layout names the tensors of its modules and arranges them: the kernel above becomes
`params/block_1/kernel`, with its axes in the order of Flax.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import numpy as np

from research.common.errors import UserError

Rules = tuple[tuple[str, str, str], ...]
"""(pattern, path, layout) rules of a model; the first whose pattern matches decides."""

Preprocessing = Mapping[str, tuple[float, ...]]
"""The numbers that the inputs are normalised by, by their config keys in a task, such as "mean"."""


class _Target(NamedTuple):
    """A parameter of ours that a tensor becomes, or becomes a part of."""

    path: str  # with {module} for our module's path
    transform: Callable[[np.ndarray], np.ndarray]
    is_term: bool = False  # the parameter is the sum of several tensors


_Layout = dict[str, tuple[_Target, ...]]  # by a regular expression for the tensor's name


def convert(tensors: Mapping[str, np.ndarray], rules: Rules) -> dict[str, np.ndarray]:
    """Converts a PyTorch `state_dict`; tensors that no rule matches are left out.

    Args:
      tensors: arrays by name, such as `layer1.0.conv1.weight`.
      rules: the model's table.

    Returns:
      Arrays of unchanged dtype by path, such as `params/Conv_0/kernel` or
      `batch_stats/BatchNorm_0/mean`.

    Raises:
      UserError: a tensor has an unexpected number of dimensions, or two become one parameter.
    """
    converted: dict[str, np.ndarray] = {}
    for name in tensors:
        for path, transform, is_term in _targets(name, rules) or ():
            tensor = tensors[name]
            try:
                value = transform(tensor)
            except ValueError:
                problem = f"cannot convert tensor '{name}' of shape {tensor.shape} to '{path}'"
                raise UserError(f"{problem}: expected the weights of another model") from None
            if path in converted and not is_term:
                problem = f"tensor '{name}' and another one both convert to '{path}'"
                raise UserError(f"{problem}; expected the weights of one model")
            converted[path] = converted[path] + value if path in converted else value
    return converted


def unmatched(names: Iterable[str], rules: Rules) -> list[str]:
    """Returns the names of the tensors that no rule matches, in their order."""
    return [name for name in names if _targets(name, rules) is None]


def _targets(name: str, rules: Rules) -> list[_Target] | None:
    """Returns the parameters that a tensor becomes, possibly none; None if no rule matches."""
    for pattern, path, layout in rules:
        kind, _, argument = layout.partition(":")
        if kind == "tensor":
            if match := re.fullmatch(pattern, name):
                return [_Target("params/" + match.expand(path), _unchanged)]
            continue
        module, _, leaf = name.rpartition(".")
        module_match = re.fullmatch(pattern, module)
        if not module_match:
            continue
        for leaf_pattern, targets in _LAYOUTS[kind](*map(int, filter(None, [argument]))).items():
            if match := re.fullmatch(leaf_pattern, leaf):
                ours = module_match.expand(path).format(**match.groupdict())
                return [t._replace(path=t.path.format(module=ours)) for t in targets]
    return None


def _unchanged(tensor: np.ndarray) -> np.ndarray:
    return tensor


def _channels_last(tensor: np.ndarray) -> np.ndarray:
    """Transposes [out, in, ...] to [..., in, out], for dense layers and convolutions."""
    if tensor.ndim < 2:
        raise ValueError
    return tensor.transpose(*range(2, tensor.ndim), 1, 0)


def _heads(part: int, num_heads: int) -> Callable[[np.ndarray], np.ndarray]:
    """Takes the query (0), key (1) or value (2) of a joint projection and splits its heads.

    The weights [3 features, inputs] become [inputs, heads, size]; the bias [3 features] becomes
    [heads, size].
    """

    def transform(tensor: np.ndarray) -> np.ndarray:
        projection = tensor.reshape(3, num_heads, -1, *tensor.shape[1:])[part]
        return projection.transpose(2, 0, 1) if projection.ndim == 3 else projection

    return transform


def _conv_or_dense() -> _Layout:
    return {
        "weight": (_Target("params/{module}/kernel", _channels_last),),
        "bias": (_Target("params/{module}/bias", _unchanged),),
    }


def _layer_norm() -> _Layout:
    return {
        "weight": (_Target("params/{module}/scale", _unchanged),),
        "bias": (_Target("params/{module}/bias", _unchanged),),
    }


def _batch_norm() -> _Layout:
    return _layer_norm() | {
        "running_mean": (_Target("batch_stats/{module}/mean", _unchanged),),
        "running_var": (_Target("batch_stats/{module}/var", _unchanged),),
        "num_batches_tracked": (),
    }


def _joint_heads(num_heads: int) -> _Layout:
    """A joint projection to queries, keys and values, such as timm's `qkv`."""

    def targets(name: str) -> tuple[_Target, ...]:
        parts = enumerate(("query", "key", "value"))
        return tuple(
            _Target(f"params/{{module}}/{part}/{name}", _heads(i, num_heads)) for i, part in parts
        )

    return {"weight": targets("kernel"), "bias": targets("bias")}


def _merged_heads(num_heads: int) -> _Layout:
    """The output projection of attention: [out, features] becomes [heads, size, out]."""

    def transform(tensor: np.ndarray) -> np.ndarray:
        return tensor.T.reshape(num_heads, -1, tensor.shape[0])

    return _conv_or_dense() | {"weight": (_Target("params/{module}/kernel", transform),)}


def _lstm() -> _Layout:
    """The layers of a PyTorch LSTM, whose gates are in the order of ours.

    Our path contains `{layer}`, such as `LSTM_{layer}`. The two biases of a layer are added.
    """
    layout: _Layout = {}
    for direction, suffix in (("forward", ""), ("backward", "_reverse")):
        for name, ours in (("weight_ih", "input"), ("weight_hh", "recurrent")):
            path = f"params/{{module}}/{direction}_{ours}"
            layout[rf"{name}_l(?P<layer>\d+){suffix}"] = (_Target(path, _channels_last),)
        bias = _Target(f"params/{{module}}/{direction}_bias", _unchanged, is_term=True)
        layout[rf"bias_[ih]h_l(?P<layer>\d+){suffix}"] = (bias,)
    return layout


# "qkv" and "out" take the number of heads, as in "qkv:6"; "tensor" is a parameter by itself.
_LAYOUTS: dict[str, Callable[..., _Layout]] = {
    "conv": _conv_or_dense,
    "dense": _conv_or_dense,
    "batch_norm": _batch_norm,
    "layer_norm": _layer_norm,
    "qkv": _joint_heads,
    "out": _merged_heads,
    "lstm": _lstm,
}
