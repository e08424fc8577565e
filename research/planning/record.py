"""The table of recorded plans, `experiments/tpu.json`, of which the README shows a part.

A run that was interrupted continues: the table is written after each plan.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from research.common.errors import ConfigError
from research.common.files import read_json, save_json
from research.hardware import compiler
from research.hardware.chips import chips, processors
from research.hardware.roofline import METHOD
from research.hardware.slices import TpuSlice, one_chip, parse_slice
from research.planning.compare import REFERENCE, at_peaks, bound, compiled, measure
from research.planning.markdown import replace_tables, tables
from research.planning.plan import (
    Plan,
    Subject,
    lower_step,
    predict_cost,
    price_of,
    subject,
)
from research.planning.table import run_dollars, run_seconds
from research.planning.wanted import Wanted, compared, guarded, wanted
from research.training.experiment import load_experiment

log = logging.getLogger(__name__)
_RAW = (
    "fits",
    "needed_bytes",
    "flops",
    "traffic_bytes",
    "kernel_seconds",
    "collective_seconds",
)


def update(folder: Path, table: Path) -> None:
    """Compiles the plans of a folder's experiments, and writes their table and the README's.

    Rows of the same program, compiler and method of prediction stay as they are.
    """
    before = read_json(table) if table.exists() else {}
    versions = {"jax": jax.__version__, "libtpu": compiler.version(), "method": METHOD}
    plans = wanted(folder)
    names = sorted({one.experiment for one in plans})
    content: dict[str, Any] = {
        "versions": versions,
        "measured": before.get("measured", {}),
        "guard": {},
        "plans": {name: before.get("plans", {}).get(name, {}) for name in names},
    }
    for one in plans:  # measured first, as a plan limits JAX to the CPU
        is_compared = one.tpu_slice.name == REFERENCE and one.experiment in compared(folder)
        if is_compared and one.experiment not in content["measured"]:
            content["measured"][one.experiment] = measure(_subject(folder, one)).to_json()
    for one in guarded(folder):
        recorded = before.get("guard", {}).get(one.experiment)
        content["guard"][one.experiment] = planned(folder, one, recorded)
        save_json(table, content)
    for one in plans:
        rows, key = content["plans"][one.experiment], one.tpu_slice.name
        rows[key] = planned(folder, one, rows.get(key))
        log.info("%s on %s: %s", one.experiment, key, _summary(rows[key]))
        jax.clear_caches()  # dozens of programs would fill the memory
        save_json(table, content)
        replace_tables(folder.parent / "README.md", markdown(folder, content))


def markdown(folder: Path, content: Mapping[str, Any]) -> str:
    """Returns the README's tables."""
    plans, measured = content["plans"], content["measured"]
    cells = {
        name: [
            *recorded_cells(plans.get(name, {})),
            *([measured[name]] if name in measured else []),
        ]
        for name in compared(folder)
    }
    return tables(plans, cells)


def recorded_cells(rows: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns the comparison of an experiment on all chips, by its recorded plans."""
    found, reference = [], rows.get(REFERENCE, {})
    for chip in chips():
        tpu = one_chip(chip)
        if "fits" in (row := rows.get(tpu.name, {})):
            found.append(compiled(recorded_plan(row, tpu), tpu, row["batch_size"]))
    if reference.get("fits"):
        known = recorded_plan(reference, parse_slice(REFERENCE))
        others = (at_peaks(), *processors())
        found += [bound(known, processor, reference["batch_size"]) for processor in others]
    return [cell.to_json() for cell in found]


def planned(folder: Path, one: Wanted, recorded: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Returns a row of the table; of a failure of the compiler, its message.

    Args:
      folder: of the experiments.
      one: the plan.
      recorded: its earlier row, whose prediction is kept if the program is the same.
    """
    what = _subject(folder, one)
    try:
        step = lower_step(what, one.tpu_slice)
        if recorded and recorded.get("program") == step.fingerprint:
            result = recorded_plan(recorded, one.tpu_slice)
        else:
            result = predict_cost(step)
    except (ConfigError, compiler.CompilerFailure) as error:
        return {"failure": str(error), "changes": one.changes}
    derived = numbers(result, one.tpu_slice, what)
    return derived | {"changes": one.changes, "program": step.fingerprint}


def recorded_plan(row: Mapping[str, Any], tpu_slice: TpuSlice) -> Plan:
    """Returns the plan that a row of the table records, without its details."""
    return Plan(
        slice=tpu_slice.name,
        step="train",
        devices=tpu_slice.num_devices,
        hbm_bytes=tpu_slice.chip.usable_hbm_gib * 2**30,
        **{key: row[key] for key in _RAW},
    )


def _subject(folder: Path, one: Wanted) -> Subject:
    return subject(load_experiment(folder / f"{one.experiment}.py", one.changes), one.examples)


def numbers(result: Plan, tpu_slice: TpuSlice, what: Subject) -> dict[str, Any]:
    """Returns the numbers of a plan that are recorded."""
    seconds, price = run_seconds(result, what), price_of(tpu_slice)
    found = {key: getattr(result, key) for key in _RAW}
    found |= {"step_seconds": result.step_seconds, "mfu": result.mfu(tpu_slice)}
    found |= {"batch_size": what.experiment.batch_size, "assumed": what.assumed}
    found |= {"run_seconds": seconds, "run_dollars": None}
    if seconds is not None and price is not None:
        found["run_dollars"] = run_dollars(seconds, tpu_slice, price)
    return found


def _summary(row: dict[str, Any]) -> str:
    if "failure" in row:
        return f"no plan: {row['failure']}"
    return f"{1e3 * row['step_seconds']:.2f} ms" if row["fits"] else "does not fit"
