"""Lists the keys of a config with their values, types and documentation."""

import ast
import dataclasses
import inspect
import textwrap
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any, get_origin

from research.common.config import (
    classes_of,
    element_types,
    fields_of,
    members_of,
    type_name,
    type_tag,
)


@dataclasses.dataclass(frozen=True)
class Entry:
    """One key of a config."""

    key: str  # dotted
    value: str | None  # as on the command line; None for a dataclass, whose own keys follow
    type: str  # as in source code
    documentation: str
    default: str | None  # None: required, or a dataclass
    is_default: bool


def entries(config: Any) -> Iterator[Entry]:
    """Yields the keys of a config dataclass; a dataclass comes before its own keys."""
    return _entries(config, None, "")


def field_documentation(cls: type) -> Mapping[str, str]:
    """Returns the string literal below each field of a dataclass, by the field's name."""
    documentation = {}
    for base in reversed(cls.__mro__):
        if not set(inspect.get_annotations(base)) & set(fields_of(cls)):
            continue
        (definition,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        assert isinstance(definition, ast.ClassDef)
        for field, below in pairwise(definition.body):
            if isinstance(field, ast.AnnAssign) and isinstance(below, ast.Expr):
                text = ast.literal_eval(below.value)
                documentation[ast.unparse(field.target)] = inspect.cleandoc(text)
    return documentation


def _entries(config: Any, default: Any, prefix: str) -> Iterator[Entry]:
    """Yields the keys of a dataclass.

    Args:
      config: the dataclass.
      default: the default of its field; if its class differs from that of `config`, the defaults of
        that class are used.
      prefix: prefix of the keys.
    """
    documentation = field_documentation(type(config))
    for name, field in fields_of(type(config)).items():
        value = getattr(config, name)
        old = getattr(default, name) if type(default) is type(config) else _default(field)
        text = documentation.get(name, "")
        yield from _field_entries(value, old, field.type, prefix + name, text)


def _field_entries(
    value: Any, default: Any, annotation: Any, key: str, documentation: str
) -> Iterator[Entry]:
    """Yields a key, or the keys of the dataclasses that it contains."""
    if dataclasses.is_dataclass(value):
        same = type(value) is type(default)
        if tag := type_tag(type(value), annotation):
            types = " | ".join(classes_of(annotation))
            yield Entry(
                f"{key}.type", tag["type"], types, documentation, _class_name(default), same
            )
        else:
            yield Entry(key, None, type_name(annotation), documentation, None, same)
        yield from _entries(value, default, f"{key}.")
    elif isinstance(value, tuple) and any(map(dataclasses.is_dataclass, value)):
        yield Entry(key, None, type_name(annotation), documentation, None, value == default)
        tuple_type = next(one for one in members_of(annotation) if get_origin(one) is tuple)
        for index, kind in enumerate(element_types(tuple_type, len(value))):
            old = default[index] if isinstance(default, tuple) and index < len(default) else None
            yield from _field_entries(value[index], old, kind, f"{key}.{index}", "")
    else:
        old = None if default is dataclasses.MISSING else _text(default)
        kind, same = type_name(annotation), value == default
        yield Entry(key, _text(value), kind, documentation, old, same)


def _text(value: Any) -> str:
    """Returns a value as on the command line; numbers without the parentheses of a tuple.

    A shell would need quotes around those.
    """
    is_numbers = isinstance(value, tuple) and all(isinstance(one, int | float) for one in value)
    return ",".join(map(str, value)) if value and is_numbers else str(value)


def _class_name(default: Any) -> str | None:
    """Returns the class of a default; None if the field is required."""
    if default is dataclasses.MISSING:
        return None
    return type(default).__name__ if dataclasses.is_dataclass(default) else str(default)


def _default(field: dataclasses.Field) -> Any:
    """Returns the default of a field; `MISSING`, which equals no value, if it is required."""
    factory = field.default_factory
    return field.default if factory is dataclasses.MISSING else factory()
