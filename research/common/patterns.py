"""Selects parameters by name with (pattern, value) pairs; the first match decides."""

import re
from collections.abc import Sequence
from typing import Any

import jax

from research.common.config import suggest
from research.common.errors import ConfigError

REST = ".*"
"""Pattern of all remaining parameters; unlike other patterns it may match none."""


def match(tree: Any, rules: Sequence[tuple[str, Any]], key: str, default: Any = None) -> Any:
    """Returns the value of each leaf of `tree`, given by (pattern, value) pairs.

    A pattern is a regular expression, searched in the path of a leaf, such as `Dense_0/kernel`.

    Args:
      tree: a pytree of parameters or of their shapes.
      rules: (pattern, value) pairs; the first match decides.
      key: the dotted config key of the rules, for errors.
      default: the value of leaves that no pattern matches.

    Raises:
      ConfigError: a pattern has no effect; the message names the most similar path.
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
      ConfigError: a rule is invalid.
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
    """Returns the name of a key path of `jax.tree_util`, such as `Dense_0/kernel`."""
    return jax.tree_util.keystr(path, simple=True, separator="/")
