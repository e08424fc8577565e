"""Evaluates a trained run on a split; every example counts exactly once.

python -m research.evaluate --workdir=runs/digits_cnn --split=test --json
"""

import json
import logging
from typing import Any

import jax
from absl import flags

from research.common import cli
from research.common.files import finite_or_none
from research.common.progress import activity
from research.common.storage import as_path
from research.data.splits import split_label
from research.reporting.runs import save_evaluation
from research.training.evaluation import check_size, evaluate
from research.training.metrics import format_metrics
from research.training.run import Run, open_run

log = logging.getLogger("research")
FLAGS = flags.FLAGS


def define_flags() -> None:
    """Defines the flags of this command, when called: other modules import this one."""
    flags.DEFINE_enum("split", "test", ["train", "validation", "test"], "Split to evaluate.")
    flags.DEFINE_bool("json", False, "Print the metrics as one line of JSON.")
    cli.define_run_flags()


def evaluate_run(run: Run, split: str, save: bool = True) -> dict[str, float]:
    """Computes the metrics of a run on a split, and logs their signatures.

    Args:
      run: the run.
      split: "train", "validation" or "test".
      save: whether to write the metrics and figures to the workdir.
    """
    with activity("opening the data"):
        dataset = run.program.task.dataset(split)
    results, scorer = evaluate(run.program, run.state, dataset)
    is_main = jax.process_index() == 0
    for signature in scorer.signatures() if is_main else ():
        log.info("%s", signature)
    save = save and is_main
    record: dict[str, Any] = {
        "split": run.program.task.opened_split(split),
        "metrics": results,
        "notes": [*scorer.notes(), *check_size(run.program.task, split, dataset)],
        "step": int(run.state.step),
    }
    figures = []
    if save:
        with activity("drawing the figures"):
            figures = scorer.figures(dataset)
        save_evaluation(run.workdir, split, record, figures)
    further = run.program.task.further_scores(run.state.params, run.state.variables, split)
    if further:
        results |= further.metrics()
        if save:
            save_evaluation(run.workdir, split, record, figures + further.figures())
    return results


def main(_: list[str]) -> None:
    """Prints the metrics."""
    # The workdir contains results of the run as trained; those of a changed one are only printed.
    save = not FLAGS.change and FLAGS.average == 1
    run = open_run(as_path(FLAGS.workdir, write=save), FLAGS.change, FLAGS.average)
    results = evaluate_run(run, FLAGS.split, save)
    if jax.process_index() != 0:
        return
    opened = run.program.task.opened_split(FLAGS.split)
    if FLAGS.json:
        print(json.dumps({"split": opened, **finite_or_none(results)}))
    else:
        shown = format_metrics(results, run.program.task.metrics)
        print(f"{split_label(FLAGS.split, opened)}: {shown}")


def run_command() -> None:
    """Runs this command with the arguments of the command line."""
    define_flags()
    cli.run(main, required=("workdir",))


if __name__ == "__main__":
    run_command()
