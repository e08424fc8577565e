"""Predicts memory, time and price of an experiment on TPU slices, with the TPU compiler alone.

python -m research.plan --config=experiments/object_detection/coco.py --slice=v5e-16
"""

import dataclasses
import json
import logging
from pathlib import Path

from absl import flags

from research.common import cli
from research.common.errors import ConfigError, UserError
from research.hardware.compiler import CompilerFailure
from research.hardware.slices import TpuSlice, parse_slice
from research.planning.compare import compare, format_cells, measure
from research.planning.plan import Plan, Subject, plan, subject
from research.planning.record import numbers, update
from research.planning.remedies import find_remedy
from research.planning.table import format_plan
from research.training.experiment import load_experiment

log = logging.getLogger("research")
FLAGS = flags.FLAGS
ALL = ("v2-8", "v3-8", "v4-8", "v5e-4", "v5p-8", "v6e-4", "tpu7x-8")  # a host of each generation


def define_flags() -> None:
    """Defines the flags of this command, when called: other modules import this one."""
    flags.DEFINE_string("config", None, "Experiment file.")
    cli.define_config_changes()
    flags.DEFINE_list(
        "slice", ["v5e-1"], "TPU slices, such as v5e-16,v6e-16; all: one host of each."
    )
    flags.DEFINE_bool("predict", False, "Plan the prediction step instead of the training step.")
    flags.DEFINE_bool(
        "compare", False, "Compare one chip of each kind with GPUs and the machine at hand."
    )
    flags.DEFINE_integer("examples", None, "Training examples per epoch, without the data.")
    flags.DEFINE_string(
        "record", None, "Write the plans of all experiments beside it to this file."
    )
    flags.DEFINE_bool("json", False, "Print a line of JSON per slice.")


def main(_: list[str]) -> None:
    """Prints the plan for each slice, or records the plans of all experiments."""
    _check_flags()
    if FLAGS.record:
        update(Path(FLAGS.record).parent, Path(FLAGS.record))
        return
    if FLAGS.compare:
        _compare()
        return
    slices = [parse_slice(name) for name in (ALL if FLAGS.slice == ["all"] else FLAGS.slice)]
    planned = _subject()
    problems = [problem for one in slices if (problem := _print(planned, one))]
    if len(problems) == len(slices):
        raise problems[-1]


def _subject() -> Subject:
    experiment = load_experiment(Path(FLAGS.config), cli.config_changes())
    planned = subject(experiment, FLAGS.examples)
    for key in planned.assumed:
        log.warning("assumed config.%s", key)
    return planned


def _compare() -> None:
    planned = _subject()
    cells = [measure(planned), *compare(planned)]
    if FLAGS.json:
        print("\n".join(json.dumps(cell.to_json()) for cell in cells))
    else:
        print(format_cells(cells))


def _print(planned: Subject, tpu_slice: TpuSlice) -> UserError | None:
    """Prints the plan for a slice; returns why there is none."""
    try:
        result = plan(planned, tpu_slice, FLAGS.predict)
    except (ConfigError, CompilerFailure) as error:
        problem = error if isinstance(error, ConfigError) else UserError(str(error))
        if len(FLAGS.slice) > 1 or FLAGS.slice == ["all"]:
            log.error("%s: %s", tpu_slice.name, problem)
        return problem
    as_json = FLAGS.json and json.dumps(to_json(result, tpu_slice, planned))
    print(as_json or format_plan(result, tpu_slice, planned), flush=True)
    if not (result.fits or FLAGS.predict or FLAGS.json):
        _print_remedy(planned, tpu_slice)
    return None


def _check_flags() -> None:
    if (FLAGS.config is None) == (FLAGS.record is None):
        raise UserError("expected either --config or --record")
    others = FLAGS.json or FLAGS.predict or FLAGS.examples or FLAGS.compare
    if FLAGS.record and (others or cli.config_changes()):
        raise UserError("invalid flags: --record takes those of plans.toml beside it")
    if FLAGS.compare and (FLAGS.predict or FLAGS.slice != ["v5e-1"]):
        raise UserError("invalid flags: --compare plans the training step on one chip of each kind")
    if FLAGS.examples is not None and FLAGS.examples < 1:
        raise UserError(f"invalid flag --examples={FLAGS.examples}: expected at least 1")


def to_json(result: Plan, tpu_slice: TpuSlice, planned: Subject) -> dict[str, object]:
    """Returns a plan as plain values, with time and price of the whole run where they are known."""
    return dataclasses.asdict(result) | numbers(result, tpu_slice, planned)


def _print_remedy(planned: Subject, tpu_slice: TpuSlice) -> None:
    remedy = find_remedy(planned, tpu_slice)
    if remedy is None:
        log.info("no accumulation, sharding or batch size that was tried fits; use more chips")
        return
    change, result = remedy
    log.info("with %s it fits, %.1f ms per step", change, 1e3 * result.step_seconds)


def run_command() -> None:
    """Runs this command with the arguments of the command line."""
    define_flags()
    cli.run(main, required=())


if __name__ == "__main__":
    run_command()
