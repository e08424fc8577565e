"""The plans that `experiments/plans.toml` asks for."""

import dataclasses
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from research.common.errors import UserError
from research.hardware.chips import chips
from research.hardware.slices import TpuSlice, one_chip, parse_slice

GENERATIONS = ("v5e", "v6e", "v5p", "v4")  # one chip of each, in this order
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
    found = [
        one
        for name in names
        for one in _wanted(name, settings.get(name, {}), is_compared=name in several)
    ]
    # What matters most comes first, as all of them take hours.
    return sorted(found, key=lambda one: _rank(one.tpu_slice))


def guarded(folder: Path) -> list[Wanted]:
    """Returns the small plans that a test compares with the table."""
    chip = parse_slice(GUARD)
    steps = _settings(folder)["guard"].items()
    return [Wanted(name, chip, tuple(changes), None) for name, changes in steps]


def compared(folder: Path) -> list[str]:
    """Returns the experiments that are compared on all kinds of chips."""
    names: list[str] = _settings(folder)["compare"]
    return names


def _settings(folder: Path) -> dict[str, Any]:
    return tomllib.loads((folder / PLANS).read_text())


def _wanted(name: str, settings: dict[str, Any], is_compared: bool) -> Iterator[Wanted]:
    examples = settings.get("examples")
    for chip in chips():
        if is_compared or chip.generation in GENERATIONS:
            yield Wanted(name, one_chip(chip), _changes(settings, one=True), examples)
    for slice_name in settings.get("slices", ()):
        yield Wanted(name, parse_slice(slice_name), _changes(settings, one=False), examples)


def _rank(tpu_slice: TpuSlice) -> int:
    generation = tpu_slice.chip.generation
    is_listed = tpu_slice.num_chips == 1 and generation in GENERATIONS
    if is_listed and (rank := GENERATIONS.index(generation)) < 2:
        return rank
    return 2 if tpu_slice.num_chips > 1 else 3 + is_listed


def _changes(settings: dict[str, Any], one: bool) -> tuple[str, ...]:
    """Returns the changes of the config for one chip or for an experiment's own slices."""
    return (*settings.get("changes", ()), *(settings.get("one_chip", ()) if one else ()))
