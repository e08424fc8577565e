"""Experiment files: where they are, and what their `get_config()` returns."""

import difflib
from collections.abc import Mapping
from pathlib import Path
from traceback import extract_tb
from typing import Any

from ml_collections import ConfigDict

from research.common.errors import UserError
from research.common.own_classes import load_file

_INSTALLED = Path(__file__).parents[2]  # a clone, or site-packages, where pip puts experiments/


def read_config(path: Path) -> Mapping[str, Any]:
    """Runs an experiment file and returns its config.

    Args:
      path: relative to the working directory, or else to the folder that contains this package.

    Raises:
      UserError: the file is missing, has no `get_config`, or raises an error.
    """
    path = _find(path)
    try:
        module = load_file(path)
        if not hasattr(module, "get_config"):
            raise UserError(f"{path} does not define get_config(); see experiments/ for examples")
        config = module.get_config()
    except UserError:
        raise
    except Exception as error:  # the file may raise any
        raise _failure(path, error) from None
    if not isinstance(config, Mapping | ConfigDict):
        expected = "expected to_config_dict(Experiment(...))"
        raise UserError(f"get_config() of {path} returns {type(config).__name__}: {expected}")
    return config


def _find(path: Path) -> Path:
    found = [one for one in (path, _INSTALLED / path) if one.is_file()]
    if found:
        return found[0]
    root = Path() if Path("experiments").is_dir() else _INSTALLED
    files = {one.stem: one.relative_to(root) for one in sorted(root.glob("experiments/*/*.py"))}
    near = difflib.get_close_matches(path.stem, files, n=1)
    remedy = f"did you mean {files[near[0]]}?" if near else f"see {root / 'experiments'}/"
    raise UserError(f"missing experiment file {path}; {remedy}")


def _failure(path: Path, error: Exception) -> UserError:
    """Returns the error of a file that cannot be run, with the last of its lines that was run."""
    calls = extract_tb(error.__traceback__)
    lines = [call.lineno for call in calls if call.filename == str(path)]
    problem = str(error)
    if isinstance(error, SyntaxError) and error.filename == str(path):
        lines, problem = [error.lineno], error.msg
    where = f"{path}:{lines[-1]}" if lines else str(path)
    return UserError(f"cannot run {where}: {type(error).__name__}: {problem}; correct the file")
