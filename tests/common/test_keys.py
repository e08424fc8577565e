"""Every key that a config may contain is read by the program and documented."""

import ast
import inspect
import textwrap
from functools import cache
from pathlib import Path
from typing import get_args

import pytest

import research
from research.common.config import classes_of, fields_of, members_of
from research.common.documentation import field_documentation
from research.training.experiment import Experiment

SPLITS = {"train", "validation", "test"}


def classes_below(field):
    annotations = [*members_of(field.type), *get_args(field.type)]
    return [cls for annotation in annotations for cls in classes_of(annotation).values()]


def reachable_classes():
    found, pending = [], [Experiment]
    while pending:
        cls = pending.pop()
        if cls not in found:
            found.append(cls)
            for field in fields_of(cls).values():
                pending += classes_below(field)
    return found


CLASSES = reachable_classes()


@cache
def nodes():
    files = Path(research.__file__).parent.rglob("*.py")
    return [node for file in files for node in ast.walk(ast.parse(file.read_text()))]


def last_name(node):
    """Returns `c` for the expressions `a.b.c` and `a.b.c()`."""
    if isinstance(node, ast.Call):
        return last_name(node.func)
    return getattr(node, "attr", getattr(node, "id", None))


@cache
def attributes_read():
    """Returns the pairs (owner, attribute) of all expressions `owner.attribute` in the package."""
    return {
        (last_name(node.value), node.attr)
        for node in nodes()
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)
    }


@cache
def holders():
    """Returns the names of arguments, variables and properties by annotated class."""
    found = {}
    for node in nodes():
        annotation = getattr(node, "annotation", None) or getattr(node, "returns", None)
        if annotation is not None:
            name = node.arg if isinstance(node, ast.arg) else getattr(node, "name", None)
            for part in ast.walk(annotation):
                kind = part.value if isinstance(part, ast.Constant) else last_name(part)
                found.setdefault(kind, set()).add(name or last_name(node.target))
    return found


def holders_of(cls):
    """Returns the names of variables of a class, such as `mesh` for `mesh: MeshConfig`."""
    names = {
        name
        for owner in CLASSES
        for name, field in fields_of(owner).items()
        if cls in classes_below(field)
    }
    for base in cls.__mro__:
        names |= holders().get(base.__name__, set())
    return names - {"self"}


def read_by_its_methods(cls):
    """Returns the fields that a class and its bases read, also by `getattr(self, key)`."""
    names = set()
    for base in cls.__mro__:
        if not base.__module__.startswith("research."):
            continue
        for node in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(base)))):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                names |= {node.attr} if last_name(node.value) == "self" else set()
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                names.add(node.value)
            if isinstance(node, ast.Call) and ast.unparse(node) == "getattr(self, split)":
                names |= SPLITS
    return names


@cache
def named_by_the_engine():
    """Returns the keys that `research/training/` reads by string, such as durations."""
    files = (Path(research.__file__).parent / "training").glob("*.py")
    constants = {
        node.value
        for file in files
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    return {constant.split(".")[-1] for constant in constants}


def test_there_are_configs_to_check():
    assert len(CLASSES) > 30


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_every_key_is_read(cls):
    """A key that no code reads would be ignored silently."""
    inside, owners = read_by_its_methods(cls), holders_of(cls)
    if cls.__module__.startswith("research.training."):
        inside |= named_by_the_engine()
    for key in fields_of(cls):
        outside = any((owner, key) in attributes_read() for owner in owners)
        assert key in inside or outside, f"nothing reads {cls.__name__}.{key}"


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_every_key_is_documented(cls):
    documentation = field_documentation(cls)
    for key in fields_of(cls):
        assert documentation.get(key), f"{cls.__name__}.{key} has no documentation below it"
