"""Predicts from your own input with a trained run.

python -m research.predict --workdir=runs/digits one.png two.png
python -m research.predict --workdir=runs/digit_scenes photo.jpg
python -m research.predict --workdir=runs/pronunciation --beam=5 --n_best=3 colonel
"""

import json
from collections.abc import Iterator
from itertools import chain, count, pairwise
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags

from research.common import cli
from research.common.errors import UserError
from research.common.files import read_lines
from research.common.storage import AnyPath, absolute, as_path
from research.data.dataset import Concatenation
from research.data.images import save_image
from research.predictor import Predictor
from research.reporting.table import in_a_line, table
from research.training.input import input_pipeline
from research.training.run import Run, open_run

FLAGS = flags.FLAGS


def define_flags() -> None:
    """The flags of this verb; not at import, so that other verbs can import this one."""
    flags.DEFINE_string("input", None, "A file whose lines are what to predict from.")
    flags.DEFINE_bool("json", False, "Print one line of JSON for each input.")
    flags.DEFINE_string("pictures", None, "Folder for pictures; by default WORKDIR/predictions.")
    flags.DEFINE_bool("stream", False, "Print what is predicted while the files are being read.")
    flags.DEFINE_integer("beam", None, "Short for --change=task.decoding.beam=...")
    flags.DEFINE_integer("n_best", None, "Short for --change=task.decoding.n_best=...")
    cli.define_run_flags()


def predict(run: Run, given: list[str]) -> Iterator[dict[str, Any]]:
    """What the task says of each input, in order.

    Args:
      run: a trained one.
      given: paths of files, or what else the task reads.

    Raises:
      UserError: one of them cannot be read.
    """
    program = run.program
    predictor = program.task.predictor()
    inputs = Concatenation([predictor.preprocess(one) for one in given])
    pipeline = input_pipeline(program, inputs, training=False)
    found: dict[int, dict[str, np.ndarray]] = {}
    for batch in pipeline.batches(0, pipeline.sampler.batches_per_epoch):
        step = program.predict_step(run.state, batch)
        predictions, indices = jax.device_get((step, batch["index"]))
        for row, index in enumerate(indices.tolist()):
            if index >= 0:  # the rest is padding
                found[index] = {name: array[row] for name, array in predictions.items()}
    for one, (start, stop) in zip(given, pairwise(inputs.starts.tolist()), strict=True):
        parts = [found[index] for index in range(start, stop)]
        yield {predictor.input_kind: one, **predictor.postprocess(parts)}


def stream(run: Run, paths: list[str]) -> Iterator[dict[str, Any]]:
    """Rows in the task's words, each as soon as it is known."""
    params, variables = run.state.params, run.state.variables
    for path in paths:
        for row in run.program.task.predictor().stream(params, variables, Path(path)):
            yield {"file": path, **row}


def visualize(
    predictor: Predictor, found: list[dict[str, Any]], folder: AnyPath
) -> list[AnyPath | None]:
    """Writes a picture of each input, and returns their paths; None where the task draws none.

    A picture has the name of the file; where several files share a name, also a number.

    Raises:
      UserError: the folder cannot be written to.
    """
    paths: list[AnyPath | None] = []
    # The inputs themselves are never written over.
    taken: set[AnyPath] = {Path(one[predictor.input_kind]).absolute() for one in found}
    for one in found:
        given = one[predictor.input_kind]
        picture = predictor.visualize(given, one)
        if picture is None:
            paths.append(None)
            continue
        stem = Path(given).stem
        names = chain([f"{stem}.png"], (f"{stem}_{number}.png" for number in count(2)))
        path = next(p for p in map(folder.joinpath, names) if absolute(p) not in taken)
        taken.add(absolute(path))
        save_image(path, picture)
        paths.append(path)
    return paths


def listed(path: AnyPath) -> list[str]:
    """The lines of a file.

    Raises:
      UserError: it cannot be read, or a line is empty.
    """
    lines = read_lines(path)
    for number, line in enumerate(lines, 1):
        if not line.strip():
            raise UserError(f"{path}:{number} is empty; remove the line")
    return lines


def main(arguments: list[str]) -> None:
    """Prints a table, or lines of JSON."""
    given = arguments + (listed(as_path(FLAGS.input)) if FLAGS.input else [])
    if not given:
        raise UserError("say what to predict from, after the flags or by --input")
    short = {f"task.decoding.{name}": FLAGS[name].value for name in ("beam", "n_best")}
    changes = [f"{key}={value}" for key, value in short.items() if value is not None]
    run = open_run(as_path(FLAGS.workdir), FLAGS.change + changes, FLAGS.average)
    if FLAGS.stream:
        for row in stream(run, given):
            print(_as_json(row) if FLAGS.json else in_a_line(row), flush=True)
        return
    # All is read before a word is printed, so that what is bad leaves nothing half-said.
    found, predictor = list(predict(run, given)), run.program.task.predictor()
    folder = as_path(FLAGS.pictures, write=True) if FLAGS.pictures else run.workdir / "predictions"
    pictures = visualize(predictor, found, folder)
    if FLAGS.json:
        for one, path in zip(found, pictures, strict=True):
            print(_as_json(one | {"picture": str(path)} if path else one))
        return
    print(table([row for one in found for row in predictor.to_rows(one)]))
    if any(pictures):
        print(f"pictures in {folder}")


def _as_json(row: dict[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False)


if __name__ == "__main__":
    define_flags()
    cli.run(main, required=("workdir",), positional=True)
