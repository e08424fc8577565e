"""Frozen dataclasses declare the config; `ConfigDict`s and saved JSON are derived from them.

An experiment file builds typed dataclasses and returns `to_config_dict(...)` of them;
`from_config_dict` converts the dict back and raises errors for unknown keys and wrong types.

A field holds a plain value, a dataclass, an optional one (`Sampler | None`), one of several
(`MLP | CNN`, or a `Task`), or a tuple of these. Where several classes are possible, the dict holds
the name of the class under `type`. Flax modules are dataclasses too, so a model is its own config.
A text that begins with `~/` is a path in the home directory.
Fields that the program sets, such as the number of classes, are declared with `not_configured`.

Instead of its own classes, a field also holds one of the user's, which `type` names by its module
or file (`research/common/own_classes.py`).
"""

import dataclasses
import difflib
import logging
import math
import types
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

from flax import linen as nn
from ml_collections import ConfigDict

from research.common.errors import ConfigError, within
from research.common.own_classes import class_path, import_class

T = TypeVar("T")
log = logging.getLogger(__name__)


class WrongTypeError(Exception):
    """A value does not have the declared type."""


def not_configured(default: Any) -> Any:
    """Declares a dataclass field that the program sets; configs may not contain it."""
    return dataclasses.field(default=default, metadata={"configured": False})


def renamed_from(
    *names: str, default: Any, convert: Callable[[Any], Any] = lambda value: value
) -> Any:
    """Declares a renamed dataclass field, so that saved configs with its old names still load.

    A renamed class lists its old names in a class attribute `former_names` instead.

    Args:
      names: the old names.
      default: the default value of the field.
      convert: maps a value saved under an old name to the current form.
    """
    return dataclasses.field(
        default=default, metadata={"renamed_from": dict.fromkeys(names, convert)}
    )


def widened_from(cls: type) -> Any:
    """Declares a dataclass field that held one class before it became a union.

    Saved configs of that time have no key `type` and still load. The default is a default `cls`.

    Args:
      cls: the only class that the field held.
    """
    return dataclasses.field(default_factory=cls, metadata={"widened_from": cls.__name__})


def to_config_dict(value: Any) -> ConfigDict:
    """Returns the `ConfigDict` of a dataclass; `get_config()` of an experiment file returns it."""
    return ConfigDict(_encode(value, type(value)), convert_dict=True)


def from_config_dict(cls: type[T], config: Mapping[str, Any]) -> T:
    """Builds the dataclass `cls` from a config.

    Raises:
      ConfigError: a key is unknown (the message names the most similar one) or missing, or a value
        is invalid.
    """
    return _decode(_plain(config), cls)


def suggest(word: str, known: Iterable[str]) -> str:
    """Returns "did you mean 'x'?", or the list of known words where none is similar."""
    known = sorted(known)
    spellings = {one.lower(): one for one in known}
    near = difflib.get_close_matches(word.lower(), spellings, n=1, cutoff=0.55)
    if near:
        return f"did you mean '{spellings[near[0]]}'?"
    return f"known: {', '.join(known) or 'none'}"


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns the leaves by dotted key: `{"a": {"b": 1}}` becomes `{"a.b": 1}`.

    Keys of dicts in a tuple contain the position: `{"a": ({"b": 1},)}` becomes `{"a.0.b": 1}`.
    """
    leaves: dict[str, Any] = {}
    for key, value in _plain(config).items():
        if isinstance(value, list | tuple) and any(isinstance(item, dict) for item in value):
            value = {str(index): item for index, item in enumerate(value)}
        if isinstance(value, dict) and value:
            leaves |= flatten(value, f"{prefix}{key}.")
        else:
            leaves[prefix + key] = list(value) if isinstance(value, tuple) else value
    return leaves


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Returns `key: old -> new` for each leaf in which two configs differ."""
    before, after, absent = flatten(old), flatten(new), "(absent)"
    return [
        f"{key}: {before.get(key, absent)} -> {after.get(key, absent)}"
        for key in sorted(before | after)
        if before.get(key, absent) != after.get(key, absent)
    ]


def fields_of(cls: type) -> dict[str, dataclasses.Field]:
    """Returns the configurable fields of a dataclass by name."""
    hidden = {"parent", "name"} if issubclass(cls, nn.Module) else set()
    return {
        field.name: field
        for field in dataclasses.fields(cls)
        if field.name not in hidden and field.metadata.get("configured", True)
    }


def field_of(cls: type, key: str, annotation: Any) -> dataclasses.Field:
    """Returns the field of a dataclass with that name.

    Args:
      cls: the dataclass.
      key: the name.
      annotation: of the field that holds the dataclass.

    Raises:
      ConfigError: the field does not exist; the message names the other classes that have it, or
        else the most similar one.
    """
    fields = fields_of(cls)
    if key in fields:
        return fields[key]
    if current := _renamed(fields).get(key):
        raise ConfigError(key, f"unknown key; it is now called '{current[0]}'")
    # Only the members of a union: to select another task does not help.
    members = [one for one in members_of(annotation) if isinstance(one, type)]
    members = [one for one in members if dataclasses.is_dataclass(one)]
    others = [one.__name__ for one in members if key in fields_of(one)]
    if others:
        remedy = f"select {' or '.join(others)} by the key 'type'"
        raise ConfigError(key, f"unknown key of {cls.__name__}; {remedy}")
    raise ConfigError(key, f"unknown key; {suggest(key, fields)}")


def members_of(annotation: Any) -> tuple[Any, ...]:
    """Returns the members of a union; for another annotation, the annotation itself."""
    is_union = get_origin(annotation) in (Union, types.UnionType)
    return get_args(annotation) if is_union else (annotation,)


def classes_of(annotation: Any) -> Mapping[str, type]:
    """Returns the dataclasses that a field may hold, by name; empty for plain values."""
    classes = [member for member in members_of(annotation) if isinstance(member, type)]
    for cls in classes:
        if hasattr(cls, "variants"):
            return cls.variants()
    return {cls.__name__: cls for cls in classes if dataclasses.is_dataclass(cls)}


def has_type_key(annotation: Any) -> bool:
    """Returns whether several classes are possible, so that the key `type` selects one."""
    return len(classes_of(annotation)) > 1 or any(
        hasattr(member, "variants") for member in members_of(annotation)
    )


def class_of(config: Mapping[str, Any], annotation: Any) -> type:
    """Returns the dataclass that a config of a field describes.

    Raises:
      ConfigError: the key `type` is missing or names an unknown class.
    """
    if "type" in config:
        return class_named(config["type"], annotation)
    classes = classes_of(annotation)
    if has_type_key(annotation):
        raise ConfigError("type", f"missing; select one of {', '.join(sorted(classes))}")
    return next(iter(classes.values()))


def class_named(name: Any, annotation: Any) -> type:
    """Returns the dataclass of a field with a current or a former name, or the user's own.

    Raises:
      ConfigError: the name is unknown, or the user's class cannot be imported or lacks a field.
    """
    classes = classes_of(annotation)
    if ":" in str(name):
        return _own_class(name, classes)
    if name in classes:
        return classes[name]
    for current, cls in classes.items():
        if name in getattr(cls, "former_names", ()):
            _warn_renamed(name, current)
            return cls
    raise ConfigError("type", f"unknown class '{name}'; {suggest(str(name), classes)}")


def type_tag(cls: type, annotation: Any) -> dict[str, str]:
    """Returns the key `type` with the name of a field's class; nothing where no other is possible.

    Raises:
      ConfigError: the class is the user's own, and nothing could import it.
    """
    classes = classes_of(annotation)
    if not classes or classes.get(cls.__name__) is cls:
        return {"type": cls.__name__} if has_type_key(annotation) else {}
    return {"type": class_path(cls)}


def element_types(annotation: Any, length: int) -> list[Any]:
    """Returns the annotation of each element of a tuple with `length` elements.

    Raises:
      WrongTypeError: a tuple of this annotation has another length.
    """
    *kinds, last = get_args(annotation)
    if last is Ellipsis:
        return kinds * length
    if length != len(kinds) + 1:
        raise WrongTypeError
    return [*kinds, last]


def default_config(cls: type, annotation: Any) -> dict[str, Any]:
    """Returns the config of a dataclass with default values; fields without a default are absent.

    Args:
      cls: the dataclass.
      annotation: of the field that holds it.
    """
    config: dict[str, Any] = {**type_tag(cls, annotation)}
    for name, field in fields_of(cls).items():
        if field.default is not dataclasses.MISSING:
            config[name] = _encode(field.default, field.type)
        elif field.default_factory is not dataclasses.MISSING:
            config[name] = _encode(field.default_factory(), field.type)
    return config


def type_name(annotation: Any) -> str:
    """Returns an annotation as in source code, such as `tuple[int, ...]` or `MLP | CNN`."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        return " | ".join(map(type_name, arguments))
    if origin is Literal:
        return " | ".join(map(repr, arguments))
    if origin is not None:
        return f"{origin.__name__}[{', '.join(map(type_name, arguments))}]"
    if annotation in (None, type(None)):
        return "None"
    return "..." if annotation is Ellipsis else annotation.__name__


def _own_class(path: str, classes: Mapping[str, type]) -> type:
    """Returns the user's class, if it has the fields that the program sets in all of `classes`."""
    cls = import_class(path)
    missing = set.intersection(*map(_derived_fields, classes.values())) - _derived_fields(cls)
    if missing:
        lines = "; ".join(f"{name}: Any = not_configured(None)" for name in sorted(missing))
        raise ConfigError("type", f"missing fields of {path} that the task sets: add {lines}")
    return cls


def _derived_fields(cls: type) -> set[str]:
    """Returns the names of the fields of a dataclass that the program sets."""
    fields = dataclasses.fields(cls)
    return {field.name for field in fields if not field.metadata.get("configured", True)}


def _plain(config: Mapping[str, Any]) -> dict[str, Any]:
    return config.to_dict() if isinstance(config, ConfigDict) else dict(config)


def _encode(value: Any, annotation: Any) -> Any:
    """Converts dataclasses to dicts, at any depth."""
    if dataclasses.is_dataclass(value):
        fields = fields_of(type(value)).items()
        encoded = {name: _encode(getattr(value, name), field.type) for name, field in fields}
        return type_tag(type(value), annotation) | encoded
    if isinstance(value, tuple):
        kind = next((one for one in members_of(annotation) if get_origin(one) is tuple), None)
        kinds = element_types(kind, len(value)) if kind else [Any] * len(value)
        return tuple(_encode(item, kind) for item, kind in zip(value, kinds, strict=True))
    return dict(value) if isinstance(value, Mapping) else value


def _decode(value: Any, annotation: Any) -> Any:
    """Converts a value of a config to the type that the annotation declares.

    Raises:
      WrongTypeError: the value has another type.
      ConfigError: a nested value is invalid.
    """
    if isinstance(value, Mapping) and classes_of(annotation):
        cls = class_of(value, annotation)
        keys = {key: value[key] for key in value if key != "type"}
        return _decode_dataclass(keys, cls, annotation)
    for member in members_of(annotation):
        try:
            return _decode_leaf(value, member)
        except WrongTypeError:
            continue
    raise WrongTypeError


def _decode_dataclass(config: Mapping[str, Any], cls: type, declared: Any) -> Any:
    """Builds a dataclass; `declared` is the annotation of the field that holds it."""
    fields, decoded = fields_of(cls), {}
    renamed = _renamed(fields)
    for key, value in config.items():
        if key not in fields and key in renamed:
            current, convert = renamed[key]
            _warn_renamed(key, current)
            key, value = current, convert(value)
        field = field_of(cls, key, declared)
        annotation = field.type
        try:
            with within(key):
                decoded[key] = _decode(_tagged(value, field), annotation)
        except WrongTypeError:
            problem = f"invalid value {value!r}: expected {_expected(annotation)}"
            raise ConfigError(key, problem) from None
    required = [name for name, field in fields.items() if _is_required(field)]
    for name in required:
        if name not in decoded:
            raise ConfigError(name, f"missing; {cls.__name__} requires {', '.join(required)}")
    return cls(**decoded)


def _tagged(value: Any, field: dataclasses.Field) -> Any:
    """Adds the key `type` to a value that was saved when its field held only one class."""
    former = field.metadata.get("widened_from")
    if former and isinstance(value, Mapping) and "type" not in value:
        return {"type": former, **value}
    return value


def _decode_leaf(value: Any, annotation: Any) -> Any:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        if value not in arguments:
            raise WrongTypeError
        return value
    if origin is tuple:
        return _decode_tuple(value, annotation)
    if origin is dict:
        if not isinstance(value, Mapping):
            raise WrongTypeError
        return dict(value)
    if annotation is Any:
        return tuple(value) if isinstance(value, list) else value
    if annotation is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    # bool is a subclass of int, but True is not a valid number of steps.
    if not isinstance(value, annotation) or (annotation is int and isinstance(value, bool)):
        raise WrongTypeError
    if isinstance(value, float) and not math.isfinite(value):
        raise WrongTypeError
    # A shell does not expand the ~ of --config.KEY=~/data, nor Python that of a file.
    is_in_home = isinstance(value, str) and value.startswith("~/")
    return str(Path(value).expanduser()) if is_in_home else value


def _decode_tuple(value: Any, annotation: Any) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise WrongTypeError
    items = []
    kinds = element_types(annotation, len(value))
    for index, (item, kind) in enumerate(zip(value, kinds, strict=True)):
        with within(str(index)):
            items.append(_decode(item, kind))
    return tuple(items)


def _expected(annotation: Any) -> str:
    """Returns the values that an annotation allows, and how to set them."""
    hint = ""
    if has_type_key(annotation):
        hint = "; select a class by the key 'type'"
    elif classes := classes_of(annotation):
        hint = f"; set its keys: {', '.join(fields_of(next(iter(classes.values()))))}"
    return type_name(annotation) + hint


def _is_required(field: dataclasses.Field) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _renamed(
    fields: Mapping[str, dataclasses.Field],
) -> dict[str, tuple[str, Callable[[Any], Any]]]:
    """Returns current name and conversion of values by the former name of each renamed field."""
    return {
        old: (name, convert)
        for name, field in fields.items()
        for old, convert in field.metadata.get("renamed_from", {}).items()
    }


@cache
def _warn_renamed(old: str, new: str) -> None:
    log.warning("config: '%s' is now called '%s'", old, new)
