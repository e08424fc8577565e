"""Predicts from your own files with a trained run.

python -m research.predict --workdir=runs/digits one.png two.png
"""

import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags

from research import cli
from research.data.dataset import Concatenation
from research.errors import UserError
from research.reporting.table import in_a_line, table
from research.training.run import Run, open_run

FLAGS = flags.FLAGS


def define_flags() -> None:
    """The flags of this verb; not at import, so that other verbs can import this one."""
    flags.DEFINE_string("workdir", None, "Folder of the run.")
    flags.DEFINE_bool("json", False, "Print one line of JSON for each file.")
    flags.DEFINE_bool("stream", False, "Print what is predicted while the files are being read.")
    cli.define_changes()


def predict(run: Run, paths: list[Path]) -> Iterator[dict[str, Any]]:
    """A row in the task's words for each file, in order.

    Raises:
      UserError: a file cannot be read.
    """
    program, state = run.program, run.state
    files = Concatenation([program.task.read(path) for path in paths])
    pipeline = program.pipeline(files, training=False)
    found: dict[int, dict[str, np.ndarray]] = {}
    for batch in pipeline.batches(0, pipeline.plan.batches_per_epoch):
        step = program.predict_step(state.inference_params, state.variables, batch)
        predictions, indices = jax.device_get((step, batch["index"]))
        for row, index in enumerate(indices.tolist()):
            if index >= 0:  # the rest is padding
                found[index] = {name: array[row] for name, array in predictions.items()}
    for path, (start, stop) in zip(paths, pairwise(files.starts.tolist()), strict=True):
        parts = [found[index] for index in range(start, stop)]
        yield {"file": str(path), **program.task.describe(parts)}


def stream(run: Run, paths: list[Path]) -> Iterator[dict[str, Any]]:
    """Rows in the task's words, each as soon as it is known."""
    for path in paths:
        for row in run.program.task.stream(run.state.inference_params, run.state.variables, path):
            yield {"file": str(path), **row}


def main(files: list[str]) -> None:
    """Prints a table, or lines of JSON."""
    if not files:
        raise UserError("name the files to predict, after the flags")
    run, paths = open_run(Path(FLAGS.workdir), FLAGS.change), [Path(name) for name in files]
    if FLAGS.stream:
        for row in stream(run, paths):
            print(json.dumps(row) if FLAGS.json else in_a_line(row), flush=True)
        return
    # All files are read before a word is printed, so that a bad one leaves nothing half-said.
    rows = list(predict(run, paths))
    print("\n".join(map(json.dumps, rows)) if FLAGS.json else table(rows))


if __name__ == "__main__":
    define_flags()
    cli.run(main, required=("workdir",))
