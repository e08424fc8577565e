"""Classes outside of this package that a config names: `my_package.models:Net` or `my_net.py:Net`.

The part before the colon is an importable module, or a Python file, relative to the working
directory. Opening a config imports it, as loading an experiment file executes that file.
"""

import dataclasses
import importlib
import sys
from operator import attrgetter
from pathlib import Path
from types import ModuleType

from research.common.errors import ConfigError


def load_file(path: Path) -> ModuleType:
    """Executes a Python file as a module; a file executed before is executed again.

    The module's name is the file's path, relative to the working directory if it is below it, so
    that `class_path` of its classes names the file.

    Args:
      path: an existing file.
    """
    _search_working_directory()
    file, here = path.resolve(), Path.cwd()
    name = str(file.relative_to(here) if file.is_relative_to(here) else file)
    module = ModuleType(name)
    module.__file__ = str(file)
    # Dataclasses and `inspect` look up the module of a class by its name.
    sys.modules[name] = module
    try:
        # Compiled here: Python's cache would miss a second change of a file within a second.
        exec(compile(file.read_bytes(), str(path), "exec"), module.__dict__)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def class_path(cls: type) -> str:
    """Returns the name by which `import_class` finds a class: `MODULE:CLASS`.

    Raises:
      ConfigError: the class is defined inside a function, or in a script or notebook, where another
        process cannot find it.
    """
    if "<locals>" in cls.__qualname__:
        problem = f"invalid class {cls.__name__}: it is defined inside a function"
        raise ConfigError("type", f"{problem}; define it at the top level of its file")
    if cls.__module__ == "__main__":
        problem = f"invalid class {cls.__name__}: it is defined in a script or notebook"
        raise ConfigError("type", f"{problem}; put it into a file of its own and import it")
    return f"{cls.__module__}:{cls.__qualname__}"


def import_class(path: str) -> type:
    """Returns the dataclass or Flax module with a name of the form `MODULE:CLASS`.

    Raises:
      ConfigError: it cannot be imported, or is not a dataclass.
    """
    module_name, _, name = path.partition(":")
    remedy = "run the command in the folder of its training"
    is_file = module_name.endswith(".py") and module_name not in sys.modules
    if is_file and not Path(module_name).exists():
        problem = f"missing file {module_name}, which defines {name}"
        raise ConfigError("type", f"{problem}; restore it, or {remedy}")
    try:
        found = attrgetter(name)(_module(module_name))
    except Exception as error:  # the module is the user's code
        reason = f"{type(error).__name__}: {error}"
        problem = f"cannot import {path}: {reason}"
        raise ConfigError("type", f"{problem}; {remedy}, or set PYTHONPATH") from None
    if not isinstance(found, type) or not dataclasses.is_dataclass(found):
        raise ConfigError("type", f"invalid class {path}: expected a dataclass or a Flax module")
    for field in dataclasses.fields(found):
        if isinstance(field.type, str):
            problem = f"invalid annotation '{field.type}' of {path}, {field.name}: it is a text"
            raise ConfigError("type", f"{problem}; remove `from __future__ import annotations`")
    return found


def _module(name: str) -> ModuleType:
    if name in sys.modules:
        return sys.modules[name]
    if name.endswith(".py"):
        return load_file(Path(name))
    _search_working_directory()
    return importlib.import_module(name)


def _search_working_directory() -> None:
    """Lets modules be imported from the working directory, as `python -m` does."""
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
