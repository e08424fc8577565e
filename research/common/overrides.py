"""Changes of a config by `KEY=VALUE`, as on the command line.

VALUE is parsed by the declared type of the key instead of its current value, so that keys that are
None, and keys of a class that another change selects, can be set.
"""

import ast
from collections.abc import Sequence
from typing import Any, Literal, TypeVar, get_args, get_origin

from research.common.config import (
    WrongTypeError,
    class_named,
    class_of,
    classes_of,
    default_config,
    element_types,
    field_of,
    fields_of,
    flatten,
    from_config_dict,
    members_of,
    suggest,
    to_config_dict,
)
from research.common.errors import ConfigError, UserError, within

T = TypeVar("T")


def with_changes(value: T, changes: Sequence[str]) -> T:
    """Returns a config dataclass with changes such as "task.model.dropout=0.1" applied.

    - `KEY.type=NAME` selects one of several classes: keys of the former class are dropped and those
      of the new one get their defaults.
    - A key below an optional dataclass that is None creates it with its defaults; `KEY=None`
      removes it.
    - Tuples are written as `1,2` or `(1, 2)`; `KEY.0` is their first element.

    Changes may have any order: those of outer keys are applied first. Of several changes of the
    same key the last one is applied.

    Raises:
      UserError: a change is not of the form KEY=VALUE, its key is unknown, or its value is invalid.
    """
    config = to_config_dict(value).to_dict()
    for keys, text in sorted(map(_split, changes), key=lambda change: _depth(change[0])):
        if keys[0] not in fields_of(type(value)):
            _check_nesting(config, ".".join(keys))
        config = _changed(config, type(value), keys, text)
    return from_config_dict(type(value), config)


def _split(change: str) -> tuple[list[str], str]:
    key, separator, text = change.partition("=")
    if not key or not separator:
        raise UserError(f"invalid change '{change}': expected KEY=VALUE, e.g. batch_size=64")
    if key.startswith("config."):
        raise UserError(f"invalid change '{change}': leave out 'config.' at its beginning")
    return key.split("."), text


def _check_nesting(config: dict[str, Any], key: str) -> None:
    """Raises ConfigError where an unknown key, such as `learning_rate`, is that of an inner class.

    Args:
      config: the whole config.
      key: a key that the outermost class does not have.
    """
    leaves = [leaf.split(".") for leaf in flatten(config)]
    known = {".".join(leaf[: i + 1]) for leaf in leaves for i in range(len(leaf))}
    if found := sorted(full for full in known if full.endswith(f".{key}")):
        raise ConfigError(key, f"unknown key; did you mean '{found[0]}'?")


def _depth(keys: list[str]) -> int:
    """Returns the depth of the value that a change replaces: `a.type` replaces `a`."""
    return len(keys) - (keys[-1] == "type")


def _changed(value: Any, annotation: Any, keys: list[str], text: str) -> Any:
    """Returns the config of a field with the value at `keys` below it replaced."""
    if not keys:
        return _parse(text, annotation)
    if classes_of(annotation):
        return _changed_dataclass(value, annotation, keys, text)
    key, *rest = keys
    for kind in members_of(annotation):
        if get_origin(kind) is dict:
            old = value or {}
            with within(key):
                return old | {key: _changed(old.get(key), get_args(kind)[1], rest, text)}
        if get_origin(kind) is tuple:
            old = list(value or ())
            positions = [str(index) for index in range(len(old))]
            if key not in positions:
                raise ConfigError(key, f"unknown position; {suggest(key, positions)}")
            index = int(key)
            with within(key):
                old[index] = _changed(old[index], element_types(kind, len(old))[index], rest, text)
            return tuple(old)
    raise ConfigError(key, "unknown key; its parent is a plain value")


def _changed_dataclass(value: Any, annotation: Any, keys: list[str], text: str) -> Any:
    if keys == ["type"]:
        cls = class_named(text, annotation)
        is_same = isinstance(value, dict) and class_of(value, annotation) is cls
        return value if is_same else default_config(cls, annotation)
    if not isinstance(value, dict):  # None, or a field without a default
        value = default_config(class_of({}, annotation), annotation)
    key, *rest = keys
    field = field_of(class_of(value, annotation), key, annotation)
    with within(key):
        return value | {key: _changed(value.get(key), field.type, rest, text)}


def _parse(text: str, annotation: Any) -> Any:
    """Returns the value of a text; if it is invalid, the text itself, which `_decode` rejects."""
    for kind in members_of(annotation):
        try:
            return _parse_as(text, kind)
        except (KeyError, SyntaxError, ValueError, WrongTypeError):
            continue
    return text


def _parse_as(text: str, kind: Any) -> Any:
    """Parses a text as one type; raises one of several exceptions if it is invalid."""
    if kind in (str, int, float):
        return kind(text)
    if kind is bool:
        return {"true": True, "false": False}[text.lower()]
    if kind is type(None):
        return {"None": None}[text]
    if get_origin(kind) is Literal:
        return {str(value): value for value in get_args(kind)}[text]
    if get_origin(kind) is tuple and not text.startswith(("(", "[", "{", "'", '"')):
        items = [item.strip() for item in text.removesuffix(",").split(",")] if text else []
        kinds = element_types(kind, len(items))
        return tuple(_parse(item, one) for item, one in zip(items, kinds, strict=True))
    return ast.literal_eval(text)
