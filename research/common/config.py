"""Frozen dataclasses are the one truth about configuration; `ConfigDict`s are derived from them.

An experiment file builds typed dataclasses and returns `to_config_dict(...)` of them. The command
line changes the `ConfigDict`, and `from_config_dict` turns it back, refusing every key that no
dataclass declares and every value of the wrong type. Where a field admits several classes (a union
such as `MLP | CNN`, or a `Task`), the dict holds the class's name under `type`.

Flax modules are dataclasses too, so a model is its own config. Fields that are filled in later
rather than configured (the number of classes, the dtype) are declared with `not_configured`.
"""

import dataclasses
import difflib
import logging
import types
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

from flax import linen as nn
from ml_collections import ConfigDict

from research.common.errors import ConfigError

T = TypeVar("T")
log = logging.getLogger(__name__)


def not_configured(default: Any) -> Any:
    """Declares a dataclass field that the program fills in and no config may set."""
    return dataclasses.field(default=default, metadata={"configured": False})


def formerly(*names: str, default: Any, convert: Callable[[Any], Any] = lambda value: value) -> Any:
    """Declares a dataclass field that was renamed, so that configs saved before still open.

    A renamed class lists its old names in a class attribute `former_names` instead.

    Args:
      names: the old names.
      default: of the field.
      convert: maps a value saved under an old name to today's form.
    """
    return dataclasses.field(default=default, metadata={"formerly": dict.fromkeys(names, convert)})


def to_config_dict(value: Any) -> ConfigDict:
    """The `ConfigDict` of a dataclass, for `get_config()` and for `config_flags`."""
    return ConfigDict(_encode(value, type(value)), convert_dict=True)


def from_config_dict(cls: type[T], config: Mapping[str, Any]) -> T:
    """The dataclass `cls` that `config` describes.

    Raises:
      ConfigError: an unknown key (the nearest right one is named), a wrong type, or a value that
        the dataclass itself refuses.
    """
    return _decode(_plain(config), cls)


def suggest(word: str, known: Iterable[str]) -> str:
    """`"did you mean 'x'?"`, or the list of what is known where nothing is near."""
    known = sorted(known)
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"did you mean '{near[0]}'?" if near else f"known: {', '.join(known) or 'none'}"


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted keys to leaves: `{"a": {"b": 1}}` is `{"a.b": 1}`."""
    leaves: dict[str, Any] = {}
    for key, value in _plain(config).items():
        if isinstance(value, dict) and value:
            leaves |= flatten(value, f"{prefix}{key}.")
        else:
            leaves[prefix + key] = list(value) if isinstance(value, tuple) else value
    return leaves


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """One `key: old -> new` for each leaf in which two configs differ."""
    before, after, absent = flatten(old), flatten(new), "(absent)"
    return [
        f"{key}: {before.get(key, absent)} -> {after.get(key, absent)}"
        for key in sorted(before | after)
        if before.get(key, absent) != after.get(key, absent)
    ]


def _plain(config: Mapping[str, Any]) -> dict[str, Any]:
    return config.to_dict() if isinstance(config, ConfigDict) else dict(config)


def _fields(cls: type) -> dict[str, dataclasses.Field]:
    hidden = {"parent", "name"} if issubclass(cls, nn.Module) else set()
    return {
        field.name: field
        for field in dataclasses.fields(cls)
        if field.name not in hidden and field.metadata.get("configured", True)
    }


def _variants(annotation: Any) -> Mapping[str, type] | None:
    """The classes that a field admits, by name; None where it admits one kind of value only."""
    if isinstance(annotation, type) and hasattr(annotation, "variants"):
        return annotation.variants()
    if get_origin(annotation) in (Union, types.UnionType):
        classes = [arg for arg in get_args(annotation) if dataclasses.is_dataclass(arg)]
        return {cls.__name__: cls for cls in classes if isinstance(cls, type)} or None
    return None


def _encode(value: Any, annotation: Any) -> Any:
    if dataclasses.is_dataclass(value):
        tag = {"type": type(value).__name__} if _variants(annotation) else {}
        fields = _fields(type(value)).items()
        return tag | {name: _encode(getattr(value, name), field.type) for name, field in fields}
    return dict(value) if isinstance(value, Mapping) else value


def _decode(value: Any, annotation: Any) -> Any:
    variants = _variants(annotation)
    if variants is not None:
        value = dict(value)
        name = _current_name(value.pop("type", None), variants)
        if name not in variants:
            raise ConfigError("type", f"no '{name}' here; {suggest(str(name), variants)}")
        return _decode_dataclass(value, variants[name])
    if dataclasses.is_dataclass(annotation) and isinstance(annotation, type):
        return _decode_dataclass(value, annotation)
    return _decode_leaf(value, annotation)


def _decode_dataclass(value: Any, cls: type) -> Any:
    fields = _fields(cls)
    renamed = {
        old: (name, convert)
        for name, field in fields.items()
        for old, convert in field.metadata.get("formerly", {}).items()
    }
    decoded = {}
    for key, item in value.items():
        if key not in fields and key in renamed:
            old, (key, convert) = key, renamed[key]
            _warn_renamed(old, key)
            item = convert(item)
        if key not in fields:
            raise ConfigError(key, f"no such key; {suggest(key, fields)}")
        try:
            decoded[key] = _decode(item, fields[key].type)
        except ConfigError as error:
            raise error.within(key) from None
        except (TypeError, ValueError, AttributeError):
            expected = getattr(fields[key].type, "__name__", None) or str(fields[key].type)
            raise ConfigError(key, f"expected {expected}, got {item!r}") from None
    try:
        return cls(**decoded)
    except TypeError as error:
        raise ConfigError("type", f"cannot build {cls.__name__}: {error}") from None


def _current_name(name: Any, variants: Mapping[str, type]) -> Any:
    """Today's name of a class, given the one in a config that may have been saved before."""
    if name in variants:
        return name
    for current, cls in variants.items():
        if name in getattr(cls, "former_names", ()):
            _warn_renamed(name, current)
            return current
    return name


@cache
def _warn_renamed(old: str, new: str) -> None:
    log.warning("config: '%s' is now called '%s'", old, new)


def _decode_leaf(value: Any, annotation: Any) -> Any:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        for argument in arguments:
            try:
                return _decode_leaf(value, argument)
            except TypeError:
                continue
        raise TypeError
    if origin is Literal:
        if value not in arguments:
            raise TypeError
        return value
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise TypeError
        if arguments[-1] is not Ellipsis and len(arguments) != len(value):
            raise TypeError
        kinds = [arguments[0]] * len(value) if arguments[-1] is Ellipsis else arguments
        return tuple(_decode_leaf(item, kind) for item, kind in zip(value, kinds, strict=True))
    if origin is dict:
        return dict(value)
    if annotation is Any:
        return tuple(value) if isinstance(value, list) else value
    if annotation is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    # bool is a subclass of int, and `True` steps are nobody's intention.
    if not isinstance(value, annotation) or (annotation is int and isinstance(value, bool)):
        raise TypeError
    return value
