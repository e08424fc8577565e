"""The table of recorded plans, `experiments/tpu.json`, of which the README shows a part.

A run that was interrupted continues: plans are cached, and the table is written after each.
"""

import dataclasses
import logging
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from research.common.errors import ConfigError, UserError
from research.common.files import save_json
from research.hardware import compiler
from research.hardware.chips import chips
from research.hardware.slices import TpuSlice, one_chip, parse_slice
from research.planning.compare import compare, measure
from research.planning.markdown import replace_tables
from research.planning.plan import Plan, Subject, plan, price_of, subject
from research.planning.table import run_dollars, run_seconds
from research.training.experiment import load_experiment

log = logging.getLogger(__name__)
GENERATIONS = ("v4", "v5e", "v5p", "v6e")  # one chip of each
GUARD = "v5e-1"
PLANS = "plans.toml"


@dataclasses.dataclass(frozen=True)
class Wanted:
    """A plan to record: an experiment, as `folder/name`, on a slice."""

    experiment: str
    tpu_slice: TpuSlice
    changes: tuple[str, ...]
    examples: int | None


def wanted(folder: Path) -> list[Wanted]:
    """Returns the plans of all experiments in a folder, by its `plans.toml`.

    Raises:
      UserError: the file names an experiment that does not exist.
    """
    names = sorted(f"{path.parent.name}/{path.stem}" for path in folder.glob("*/*.py"))
    settings = _settings(folder)
    guard, several = settings.pop("guard"), settings.pop("compare")
    if unknown := (settings.keys() | guard.keys() | set(several)) - set(names):
        raise UserError(f"unknown experiment '{min(unknown)}' in {folder / PLANS}")
    return [one for name in names for one in _wanted(name, settings.get(name, {}))]


def guarded(folder: Path) -> list[Wanted]:
    """Returns the small plans that a test compares with the table."""
    chip = parse_slice(GUARD)
    steps = _settings(folder)["guard"].items()
    return [Wanted(name, chip, tuple(changes), None) for name, changes in steps]


def compared(folder: Path) -> list[Wanted]:
    """Returns the experiments that are compared on all kinds of chips."""
    settings, slice_of = _settings(folder), one_chip(chips()[0])
    return [
        Wanted(name, slice_of, _changes(settings.get(name, {}), one=True), None)
        for name in settings["compare"]
    ]


def update(folder: Path, table: Path) -> None:
    """Compiles all plans of a folder's experiments, and writes their table and the README's."""
    versions = {"jax": jax.__version__, "libtpu": compiler.version()}
    guard: dict[str, Any] = {}
    plans: dict[str, dict[str, Any]] = {}
    cells: dict[str, list[dict[str, Any]]] = {}
    content = {"versions": versions, "guard": guard, "compare": cells, "plans": plans}
    subjects = {one.experiment: _subject(folder, one) for one in compared(folder)}
    for name, what in subjects.items():  # first, as a plan limits JAX to the CPU
        cells[name] = [measure(what).to_json()]
    for one in guarded(folder):
        guard[one.experiment] = planned(folder, one)
        save_json(table, content)
    for name, what in subjects.items():
        cells[name] += [cell.to_json() for cell in compare(what)]
        save_json(table, content)
    for one in wanted(folder):
        numbers = planned(folder, one)
        plans.setdefault(one.experiment, {})[one.tpu_slice.name] = numbers
        log.info("%s on %s: %s", one.experiment, one.tpu_slice.name, _summary(numbers))
        save_json(table, content)
    replace_tables(folder.parent / "README.md", content)


def planned(folder: Path, one: Wanted) -> dict[str, Any]:
    """Returns a row of the table; of a failure of the compiler, its message."""
    what = _subject(folder, one)
    try:
        return row(plan(what, one.tpu_slice), one.tpu_slice, what) | {"changes": one.changes}
    except (ConfigError, compiler.CompilerFailure) as error:
        return {"failure": str(error), "changes": one.changes}


def _subject(folder: Path, one: Wanted) -> Subject:
    return subject(load_experiment(folder / f"{one.experiment}.py", one.changes), one.examples)


def row(result: Plan, tpu_slice: TpuSlice, what: Subject) -> dict[str, Any]:
    """Returns the numbers of a plan that are recorded."""
    seconds, price = run_seconds(result, what), price_of(tpu_slice)
    keys = (
        "fits",
        "needed_bytes",
        "flops",
        "traffic_bytes",
        "kernel_seconds",
        "collective_seconds",
    )
    numbers = {key: getattr(result, key) for key in keys}
    numbers |= {"step_seconds": result.step_seconds, "mfu": result.mfu(tpu_slice)}
    numbers |= {"batch_size": what.experiment.batch_size, "assumed": what.assumed}
    numbers |= {"run_seconds": seconds, "run_dollars": None}
    if seconds is not None and price is not None:
        numbers["run_dollars"] = run_dollars(seconds, tpu_slice, price)
    return numbers


def _settings(folder: Path) -> dict[str, Any]:
    return tomllib.loads((folder / PLANS).read_text())


def _wanted(name: str, settings: dict[str, Any]) -> Iterator[Wanted]:
    examples = settings.get("examples")
    for chip in chips():
        if chip.generation in GENERATIONS:
            yield Wanted(name, one_chip(chip), _changes(settings, one=True), examples)
    for slice_name in settings.get("slices", ()):
        yield Wanted(name, parse_slice(slice_name), _changes(settings, one=False), examples)


def _changes(settings: dict[str, Any], one: bool) -> tuple[str, ...]:
    """Returns the changes of the config for one chip or for an experiment's own slices."""
    return (*settings.get("changes", ()), *(settings.get("one_chip", ()) if one else ()))


def _summary(row: dict[str, Any]) -> str:
    if "failure" in row:
        return f"no plan: {row['failure']}"
    return f"{1e3 * row['step_seconds']:.2f} ms" if row["fits"] else "does not fit"
