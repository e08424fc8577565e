"""Predicts with a trained run, from files or texts.

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
    """Defines the flags of this command, when called: other modules import this one."""
    flags.DEFINE_string("input", None, "Text file with one input per line.")
    flags.DEFINE_bool("json", False, "Print one line of JSON per input.")
    flags.DEFINE_string("pictures", None, "Folder for pictures; by default WORKDIR/predictions.")
    flags.DEFINE_bool("stream", False, "Print predictions while the files are being read.")
    flags.DEFINE_integer("beam", None, "Short for --change=task.decoding.beam_size=...")
    flags.DEFINE_integer("n_best", None, "Short for --change=task.decoding.n_best=...")
    cli.define_run_flags()


def predict(run: Run, inputs: list[str]) -> Iterator[dict[str, Any]]:
    """Yields the result of each input, in order.

    Args:
      run: a trained run.
      inputs: file paths, or texts where the task takes texts.

    Raises:
      UserError: an input cannot be read.
    """
    program = run.program
    predictor = program.task.predictor()
    examples = Concatenation([predictor.preprocess(item) for item in inputs])
    pipeline = input_pipeline(program, examples, training=False)
    predicted: dict[int, dict[str, np.ndarray]] = {}
    for batch in pipeline.batches(0, pipeline.sampler.batches_per_epoch):
        step = program.predict_step(run.state, batch)
        predictions, indices = jax.device_get((step, batch["index"]))
        for row, index in enumerate(indices.tolist()):
            if index >= 0:  # the rest is padding
                predicted[index] = {name: array[row] for name, array in predictions.items()}
    for item, (start, stop) in zip(inputs, pairwise(examples.starts.tolist()), strict=True):
        parts = [predicted[index] for index in range(start, stop)]
        yield {predictor.input_kind: item, **predictor.postprocess(parts)}


def stream(run: Run, paths: list[str]) -> Iterator[dict[str, Any]]:
    """Yields the results of each file while it is being read, each as soon as it is final."""
    params, variables = run.state.params, run.state.variables
    for path in paths:
        for row in run.program.task.predictor().stream(params, variables, Path(path)):
            yield {"file": path, **row}


def visualize(
    predictor: Predictor, results: list[dict[str, Any]], folder: AnyPath
) -> list[AnyPath | None]:
    """Writes a picture of each result and returns their paths; None where the task has none.

    A picture has the name of its input file, with a number if several files share the name.

    Raises:
      UserError: the folder cannot be written.
    """
    paths: list[AnyPath | None] = []
    # Pictures must not overwrite the inputs.
    taken: set[AnyPath] = {Path(one[predictor.input_kind]).absolute() for one in results}
    for result in results:
        item = result[predictor.input_kind]
        picture = predictor.visualize(item, result)
        if picture is None:
            paths.append(None)
            continue
        stem = Path(item).stem
        names = chain([f"{stem}.png"], (f"{stem}_{number}.png" for number in count(2)))
        path = next(p for p in map(folder.joinpath, names) if absolute(p) not in taken)
        taken.add(absolute(path))
        save_image(path, picture)
        paths.append(path)
    return paths


def read_inputs(path: AnyPath) -> list[str]:
    """Returns the lines of a file, one input per line.

    Raises:
      UserError: the file cannot be read, or a line is empty.
    """
    lines = read_lines(path)
    for number, line in enumerate(lines, 1):
        if not line.strip():
            raise UserError(f"{path}:{number} is empty; remove the line")
    return lines


def main(arguments: list[str]) -> None:
    """Prints a table, or lines of JSON."""
    inputs = arguments + (read_inputs(as_path(FLAGS.input)) if FLAGS.input else [])
    if not inputs:
        raise UserError("missing input: list files or texts after the flags, or set --input=FILE")
    short = {"beam_size": FLAGS.beam, "n_best": FLAGS.n_best}
    changes = [f"task.decoding.{key}={value}" for key, value in short.items() if value is not None]
    run = open_run(as_path(FLAGS.workdir), FLAGS.change + changes, FLAGS.average)
    if FLAGS.stream:
        for row in stream(run, inputs):
            print(_as_json(row) if FLAGS.json else in_a_line(row), flush=True)
        return
    # All inputs are read before anything is printed, so that an invalid one leaves no output.
    results, predictor = list(predict(run, inputs)), run.program.task.predictor()
    folder = as_path(FLAGS.pictures, write=True) if FLAGS.pictures else run.workdir / "predictions"
    pictures = visualize(predictor, results, folder)
    if FLAGS.json:
        for result, path in zip(results, pictures, strict=True):
            print(_as_json(result | {"picture": str(path)} if path else result))
        return
    print(table([row for result in results for row in predictor.to_rows(result)]))
    if any(pictures):
        print(f"pictures in {folder}")


def _as_json(row: dict[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False)


def run_command() -> None:
    """Runs this command with the arguments of the command line."""
    define_flags()
    cli.run(main, required=("workdir",), positional="INPUT...")


if __name__ == "__main__":
    run_command()
