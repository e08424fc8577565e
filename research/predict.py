"""Predicts from your own files with a trained run.

python -m research.predict --workdir=runs/digits one.png two.png
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags

from research import cli
from research.data.dataset import Dataset, Example
from research.errors import UserError
from research.reporting.table import table
from research.task import Task
from research.training.run import Run, open_run

FLAGS = flags.FLAGS


def define_flags() -> None:
    """The flags of this verb; not at import, so that other verbs can import this one."""
    flags.DEFINE_string("workdir", None, "Folder of the run.")
    flags.DEFINE_bool("json", False, "Print one line of JSON for each file.")


def predict(run: Run, paths: list[Path]) -> Iterator[dict[str, Any]]:
    """A row in the task's words for each file, in order.

    Raises:
      UserError: a file cannot be read; before the first row of its batch.
    """
    program, state = run.program, run.state
    pipeline = program.pipeline(_Files(program.task, paths), training=False)
    for batch in pipeline.batches(0, pipeline.plan.batches_per_epoch):
        step = program.predict_step(state.inference_params, state.variables, batch)
        predictions, indices = jax.device_get((step, batch["index"]))
        for row, index in enumerate(indices):
            if index >= 0:  # the rest is padding
                one = {name: array[row] for name, array in predictions.items()}
                yield {"file": str(paths[index]), **program.task.describe(one)}


class _Files(Dataset):
    """The user's own files as a task's examples."""

    def __init__(self, task: Task, paths: list[Path]):
        super().__init__()
        self.task, self.paths = task, paths

    def __len__(self) -> int:
        return len(self.paths)

    def example(self, index: int, rng: np.random.Generator) -> Example:
        return self.task.read(self.paths[index])


def main(files: list[str]) -> None:
    """Prints a table, or lines of JSON."""
    if not files:
        raise UserError("name the files to predict, after the flags")
    # All files are read before a word is printed, so that a bad one leaves nothing half-said.
    rows = list(predict(open_run(Path(FLAGS.workdir)), [Path(name) for name in files]))
    print("\n".join(map(json.dumps, rows)) if FLAGS.json else table(rows))


if __name__ == "__main__":
    define_flags()
    cli.run(main, required=("workdir",))
