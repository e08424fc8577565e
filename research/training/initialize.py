"""Initial parameters from elsewhere: a run, a file of weights, a package, or the hub.

The parameters of a run come from its own newest checkpoint, else from `config.initialize`, else
they are drawn at random; `Trainer` decides in this order.
"""

import json
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from research.common.config import suggest
from research.common.errors import ConfigError, UserError
from research.common.patterns import path_name
from research.common.progress import activity
from research.common.storage import AnyPath
from research.task import Task, Tree, Vocabularies
from research.weights.conversion import Preprocessing, convert, unmatched
from research.weights.source import locate, read_tensors

log = logging.getLogger(__name__)
_SHOWN = 6  # unexplained parameters in an error
_OURS = "params/"
_TOLERANCE = 0.01  # of preprocessing: publications round means to two or three digits

ReadRun = Callable[[AnyPath], tuple[Task, Tree]]
"""Reads a run's workdir: its task, and its parameters and variables."""


@dataclass(frozen=True)
class Initialize:
    """The source of initial parameters, and the selection of those to load."""

    source: str
    """A workdir, a `.safetensors` file, a PyTorch `state_dict` file, the name of an installed
    package that contains one, or `hf:OWNER/NAME`."""

    include: tuple[str, ...] = ()
    """Patterns of the parameters to load, by their paths in this network; empty: all."""

    exclude: tuple[str, ...] = ()
    """Patterns of parameters that are not loaded, such as "head" for other classes."""

    rename: tuple[tuple[Any, ...], ...] = ()
    """(pattern, replacement) pairs, applied in order to the paths of the source's parameters."""

    train: Literal["everything", "new", "gradually"] = "everything"
    """The parameters to train: "everything" is full fine-tuning; "new", a linear probe, those that
    are not loaded and the layers of the classes or tokens; "gradually", these in the first quarter
    of the run, then everything."""

    def __post_init__(self):
        for key in ("include", "exclude"):
            for pattern in getattr(self, key):
                _check_pattern(key, pattern)
        for rule in self.rename:
            if len(rule) != 2 or not all(isinstance(part, str) for part in rule):
                problem = f"invalid rule {rule!r}: expected (pattern, replacement)"
                raise ConfigError("rename", problem)
            _check_pattern("rename", rule[0])


class Row(NamedTuple):
    """The origin of one parameter or variable."""

    path: str
    shape: tuple[int, ...]
    action: str  # "loaded", "re-initialised" or "left out"
    reason: str = ""


def load(
    config: Initialize, task: Task, shapes: Tree, read_run: ReadRun
) -> tuple[dict[str, np.ndarray], list[Row]]:
    """Loads initial parameters and variables.

    Logs a warning if they expect another preprocessing than the task's.

    Args:
      config: the source, and what to take from it.
      task: its name table converts PyTorch's names to paths in `shapes`.
      shapes: the network's parameters and variables, abstract, as {"params": ...,
        "batch_stats": ...}.
      read_run: reads a run in the form of `shapes`.

    Returns:
      Arrays by path, such as "params/head/kernel", and the origin of everything in the network and
      in the source. Where a run has another vocabulary (`Task.vocabularies`), the slices of tokens
      that only the network has are masked.

    Raises:
      UserError: the source cannot be read; a parameter of the network is neither in the source nor
        excluded, or has another shape there; or one of the source is not in the network. Names and
        shapes are in the message.
    """
    ours = by_path(shapes)
    with activity(f"reading the weights of {config.source}"):
        arrays, expected, vocabularies = _read(config.source, task, read_run)
    source = _renamed(arrays, config.rename)
    common = _reorder(source, task.vocabularies, vocabularies)
    for key in ("include", "exclude"):
        _check_used(key, getattr(config, key), [*ours, *source])
    rows, problems = [], []
    for path, leaf in ours.items():
        unselected = _unselected(config, path)
        found = source.get(path)
        if unselected:
            rows.append(Row(path, leaf.shape, "re-initialised", unselected))
        elif found is None:
            problems.append(f"{path} {list(leaf.shape)} is not in the source")
        elif path in common and not common[path][0]:
            problems.append(f"{path} {list(leaf.shape)} has other classes in the source")
        elif found.shape != leaf.shape:
            problems.append(f"{path} is {list(leaf.shape)}, in the source {list(found.shape)}")
        else:
            reason = "{} of {} classes or tokens".format(*common[path]) if path in common else ""
            rows.append(Row(path, leaf.shape, "loaded", reason))
    for path in source:
        unselected = _unselected(config, path)
        if unselected:
            rows.append(Row(path, source[path].shape, "left out", unselected))
        elif path not in ours:
            problems.append(
                f"{path} {list(source[path].shape)} of the source is not in the network"
            )
    if problems:
        more = f"; and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        listed = "; ".join(problems[:_SHOWN])
        remedy = "rename them, or list them in config.initialize.exclude"
        raise ConfigError("initialize", f"cannot use {config.source}: {listed}{more}; {remedy}")
    _check_preprocessing(config.source, expected, task.preprocessing)
    loaded = {
        row.path: np.asanyarray(source[row.path]).astype(ours[row.path].dtype)
        for row in rows
        if row.action == "loaded"
    }
    return loaded, rows


def is_loaded(config: Initialize, path: str) -> bool:
    """Returns whether a path of the network, such as "params/head/kernel", is loaded."""
    return not _unselected(config, path)


def log_table(source: str, rows: Sequence[Row]) -> None:
    """Logs the origin of every parameter, those of one module in one line."""
    groups: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        module = row.path.rpartition("/")[0]
        groups.setdefault((row.action, row.reason, module), []).append(row)
    log.info("initial parameters from %s:", source)
    for (action, reason, module), members in groups.items():
        names = ", ".join(f"{r.path.rpartition('/')[2]} {list(r.shape)}" for r in members)
        log.info("  %-14s %s: %s%s", action, module, names, f" ({reason})" if reason else "")


def _reorder(
    source: dict[str, np.ndarray], vocabularies: Vocabularies, others: Vocabularies
) -> dict[str, tuple[int, int]]:
    """Replaces arrays of the source by slices in our order, where the vocabularies differ.

    Returns:
      By path, how many of our classes or tokens the source has, and how many there are.
    """
    found: dict[str, tuple[int, int]] = {}
    for pattern, axis, names in vocabularies:
        theirs = next((names for other, _, names in others if other == pattern), names)
        if theirs == names:
            continue
        ours = set(names) - {""}
        for path in filter(re.compile(pattern).search, source):
            source[path] = _take(source[path], axis, names, theirs)
            found[path] = len(ours & set(theirs)), len(ours)
    return found


def _take(
    array: np.ndarray, axis: int, names: Sequence[str], theirs: Sequence[str]
) -> np.ma.MaskedArray:
    """Returns the slices of `names`; those that are not among `theirs` are masked."""
    position = {name: i for i, name in enumerate(theirs)}
    rows = np.array([position.get(name, -1) for name in names])
    shape = [-1 if i == axis else 1 for i in range(array.ndim)]
    taken = np.take(np.asarray(array), np.maximum(rows, 0), axis)
    return np.ma.masked_array(taken, np.broadcast_to((rows < 0).reshape(shape), taken.shape))


def _read(
    source: str, task: Task, read_run: ReadRun
) -> tuple[dict[str, np.ndarray], Preprocessing, Vocabularies]:
    """Reads the source's arrays by our paths, the preprocessing that they expect, vocabularies."""
    path = locate(source)
    if path.is_dir():
        source_task, tree = read_run(path)
        return by_path(tree), source_task.preprocessing, source_task.vocabularies
    tensors = read_tensors(source)
    if any(name.startswith(_OURS) for name in tensors):
        return {name: tensors[name] for name in tensors}, *_described(source, tensors.metadata)
    rules = task.name_table
    if not rules:
        problem = f"the parameters of {source} have foreign names, and this model has no table of"
        raise UserError(f"{problem} names; choose a model that has one, such as ResNet")
    unknown = unmatched(tensors, rules)
    if len(unknown) == len(tensors):
        raise UserError(
            f"{source} contains other parameters than this model's, such as '{unknown[0]}' "
            f"{list(tensors.shapes[unknown[0]].shape)}; choose the model that it belongs to"
        )
    arrays = convert(tensors, rules) | {name: tensors[name] for name in unknown}
    return arrays, task.pretrained_preprocessing, ()


def description(task: Task) -> dict[str, str]:
    """Returns the metadata that an exported file needs to be read as safely as a run."""
    facts = {"preprocessing": task.preprocessing, "vocabularies": task.vocabularies}
    return {name: json.dumps(value) for name, value in facts.items()}


def _described(source: str, metadata: Mapping[str, str]) -> tuple[Preprocessing, Vocabularies]:
    """Returns preprocessing and vocabularies from the result of `description`."""
    try:
        preprocessing = json.loads(metadata.get("preprocessing", "{}"))
        vocabularies = json.loads(metadata.get("vocabularies", "[]"))
        return dict(preprocessing), tuple(
            (p, axis, tuple(names)) for p, axis, names in vocabularies
        )
    except (TypeError, ValueError):
        problem = f"the metadata of {source} are damaged"
        raise UserError(f"{problem}; export it again by `python -m research.export`") from None


def _check_preprocessing(source: str, expected: Preprocessing, actual: Preprocessing) -> None:
    for key in sorted(expected.keys() & actual.keys()):
        theirs, ours = np.array(expected[key]), np.array(actual[key])
        is_same_shape = theirs.shape == ours.shape or 1 in (theirs.size, ours.size)
        if not is_same_shape or not np.allclose(theirs, ours, atol=_TOLERANCE):
            log.warning(
                "the parameters from %s expect config.task.%s=%s, which is %s",
                source,
                key,
                tuple(theirs.round(4).tolist()),
                tuple(ours.round(4).tolist()),
            )


def _renamed(source: Mapping[str, np.ndarray], rules: Sequence[Any]) -> dict[str, np.ndarray]:
    _check_used("rename", [pattern for pattern, _ in rules], list(source))
    renamed: dict[str, np.ndarray] = {}
    for path, array in source.items():
        new = path
        for pattern, replacement in rules:
            new = re.sub(pattern, replacement, new)
        if new in renamed:
            problem = f"gives '{new}' to several parameters; use a narrower pattern"
            raise ConfigError("initialize.rename", problem)
        renamed[new] = array
    return renamed


def _unselected(config: Initialize, path: str) -> str:
    """The reason that a path is not loaded; "" if it is."""
    if any(re.search(pattern, path) for pattern in config.exclude):
        return "excluded"
    if config.include and not any(re.search(pattern, path) for pattern in config.include):
        return "not included"
    return ""


def _check_used(key: str, patterns: Sequence[str], paths: Sequence[str]) -> None:
    for pattern in patterns:
        if not any(re.search(pattern, path) for path in paths):
            problem = f"pattern '{pattern}' matches no parameter; {suggest(pattern, paths)}"
            raise ConfigError(f"initialize.{key}", problem)


def _check_pattern(key: str, pattern: str) -> None:
    try:
        re.compile(pattern)
    except re.error as error:
        problem = f"invalid pattern '{pattern}': {error}; expected a regular expression"
        raise ConfigError(key, problem) from None


def by_path(tree: Tree) -> dict[str, Any]:
    """Returns the leaves of a tree by their paths, such as "params/head/kernel"."""
    return {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}
