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
from research.errors import UserError
from research.hardware.mesh import batch_shards
from research.reporting.table import table
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
    task, program, state = run.program.task, run.program, run.state
    shards = batch_shards(program.mesh)
    # A few files do not need a whole training batch.
    size = min(program.experiment.batch_size, -(-len(paths) // shards) * shards)
    for start in range(0, len(paths), size):
        part = paths[start : start + size]
        examples = [task.read(path) for path in part]
        filled = examples + [examples[-1]] * (size - len(part))
        batch = {name: np.stack([example[name] for example in filled]) for name in examples[0]}
        predictions = jax.device_get(
            program.predict_step(state.inference_params, state.variables, program.place(batch))
        )
        for row, path in enumerate(part):
            one = {name: array[row] for name, array in predictions.items()}
            yield {"file": str(path), **task.describe(one)}


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
