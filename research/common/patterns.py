"""Chooses parameters by name with (pattern, value) pairs, of which the first match decides."""

import re
from collections.abc import Sequence
from typing import Any

import jax

from research.common.config import suggest
from research.common.errors import ConfigError

REST = ".*"
"""The pattern of all remaining parameters; as the only one it may match nothing."""


def match(tree: Any, rules: Sequence[tuple[str, Any]], key: str, default: Any = None) -> Any:
    """Returns a tree of values, one for each leaf of `tree`, as (pattern, value) pairs decide.

    A pattern is a regular expression that is searched in a leaf's path, such as `Dense_0/kernel`.

    Args:
      tree: a pytree of parameters or of their shapes.
      rules: (pattern, value) pairs, the first match decides.
      key: the dotted config key that holds the rules, for errors.
      default: the value of leaves that no pattern matches.

    Raises:
      ConfigError: a pattern decides for no leaf; the message names the nearest path.
    """
    undecided = {pattern for pattern, _ in rules} - {REST}

    def value_of(path: Any, _: Any) -> Any:
        name = path_name(path)
        for pattern, value in rules:
            if re.search(pattern, name):
                undecided.discard(pattern)
                return value
        return default

    values = jax.tree_util.tree_map_with_path(value_of, tree)
    if undecided:
        pattern = min(undecided)
        paths = [path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)]
        raise ConfigError(
            key,
            f"pattern '{pattern}' matches no parameter, or only those that earlier patterns match; "
            f"{suggest(pattern, paths)}",
        )
    return values


def check_patterns(rules: Sequence[Any], key: str) -> None:
    """Checks that rules are (regular expression, value) pairs.

    Raises:
      ConfigError: at `key`.
    """
    for rule in rules:
        if not isinstance(rule, list | tuple) or len(rule) != 2 or not isinstance(rule[0], str):
            raise ConfigError(key, f"invalid rule {rule!r}: expected (pattern, value)")
        try:
            re.compile(rule[0])
        except re.error as error:
            problem = f"invalid pattern '{rule[0]}': {error}; expected a regular expression"
            raise ConfigError(key, problem) from None


def path_name(path: Any) -> str:
    """`Dense_0/kernel` for a key path of `jax.tree_util`."""
    return jax.tree_util.keystr(path, simple=True, separator="/")
