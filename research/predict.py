"""Predicts with a trained run, from files or texts.

python -m research.predict --workdir=runs/digits_cnn one.png two.png
python -m research.predict --workdir=runs/digit_scenes photo.jpg
python -m research.predict --workdir=runs/pronunciation --beam=5 --n_best=3 colonel
"""

import json
import sys
from collections.abc import Iterator
from itertools import chain, count, pairwise
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags

from research.common import cli
from research.common.errors import UserError
from research.common.files import check_is_writable, read_lines
from research.common.progress import progress
from research.common.storage import AnyPath, absolute, as_path
from research.data.dataset import Concatenation, Dataset
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
    flags.DEFINE_string("pictures", None, "Folder to draw the results onto the inputs in.")
    flags.DEFINE_bool("stream", False, "Print predictions while the files are being read.")
    flags.DEFINE_integer("beam", None, "Short for --change=task.decoding.beam_size=...")
    flags.DEFINE_integer("n_best", None, "Short for --change=task.decoding.n_best=...")
    cli.define_run_flags()


def predict(run: Run, inputs: list[str]) -> Iterator[dict[str, Any]]:
    """Yields the result of each input, in order; that of an unreadable one is its `error`.

    Args:
      run: a trained run.
      inputs: file paths, or texts where the task takes texts.
    """
    predictor = run.program.task.predictor()
    loaded = [_load(predictor, item) for item in inputs]
    predictions = _predictions(run, [one for one in loaded if isinstance(one, Dataset)])
    for item, one in zip(inputs, loaded, strict=True):
        if isinstance(one, Dataset):
            yield {predictor.input_kind: item, **predictor.postprocess(next(predictions))}
        else:
            yield {predictor.input_kind: item, "error": str(one)}


def _load(predictor: Predictor, item: str) -> Dataset | UserError:
    try:
        return predictor.preprocess(item)
    except UserError as error:
        return error


def _predictions(run: Run, datasets: list[Dataset]) -> Iterator[list[dict[str, np.ndarray]]]:
    """Yields the predictions of each input, one for each of its parts."""
    if not datasets:
        return
    program, examples = run.program, Concatenation(datasets)
    pipeline = input_pipeline(program, examples, training=False)
    predicted: dict[int, dict[str, np.ndarray]] = {}
    batches = pipeline.sampler.batches_per_epoch
    for batch in progress(pipeline.batches(0, batches), "predicting", batches):
        step = program.predict_step(run.state, batch)
        predictions, indices = jax.device_get((step, batch["index"]))
        for row, index in enumerate(indices.tolist()):
            if index >= 0:  # the rest is padding
                predicted[index] = {name: array[row] for name, array in predictions.items()}
    for start, stop in pairwise(examples.starts.tolist()):
        yield [predicted[index] for index in range(start, stop)]


def stream(run: Run, paths: list[str]) -> Iterator[dict[str, Any]]:
    """Yields the results of each file while it is being read, each as soon as it is final.

    The last one of a file that cannot be read is its `error`.
    """
    params, variables = run.state.params, run.state.variables
    for path in paths:
        try:
            for row in run.program.task.predictor().stream(params, variables, Path(path)):
                yield {"file": path, **row}
        except UserError as error:
            yield {"file": path, "error": str(error)}


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
    """Prints a table, or lines of JSON; the exit code is 1 without some results, 2 without any."""
    inputs = arguments + (read_inputs(as_path(FLAGS.input)) if FLAGS.input else [])
    if not inputs:
        raise UserError("missing input: list files or texts after the flags, or set --input=FILE")
    short = {"beam_size": FLAGS.beam, "n_best": FLAGS.n_best}
    changes = [f"task.decoding.{key}={value}" for key, value in short.items() if value is not None]
    folder = as_path(FLAGS.pictures, write=True) if FLAGS.pictures else None
    if folder:
        check_is_writable(folder)
    run = open_run(as_path(FLAGS.workdir), FLAGS.change + changes, FLAGS.average)
    if folder:
        run.program.task.predictor().check_visualizes()
    results = _print_stream(run, inputs) if FLAGS.stream else _print_all(run, inputs, folder)
    errors = [result["error"] for result in results if "error" in result]
    for error in dict.fromkeys(errors):
        print(f"error: {' '.join(error.split())}", file=sys.stderr)
    if errors:
        sys.exit(1 if len(errors) < len(results) else 2)


def _print_stream(run: Run, inputs: list[str]) -> list[dict[str, Any]]:
    """Prints the results of each file as soon as they are final, and returns them."""
    results = []
    for row in stream(run, inputs):
        results.append(row)
        if FLAGS.json or "error" not in row:
            print(_as_json(row) if FLAGS.json else in_a_line(row), flush=True)
    return results


def _print_all(run: Run, inputs: list[str], folder: AnyPath | None) -> list[dict[str, Any]]:
    """Prints the results of all inputs, and returns them; writes their pictures to `folder`."""
    results, predictor = list(predict(run, inputs)), run.program.task.predictor()
    answered = [result for result in results if "error" not in result]
    pictures = visualize(predictor, answered, folder) if folder else []
    if FLAGS.json:
        for result, path in zip(answered, pictures, strict=False):
            if path:
                result["picture"] = str(path)
        print("\n".join(map(_as_json, results)))
    elif answered:
        print(table([row for result in answered for row in predictor.to_rows(result)]))
        if any(pictures):
            print(f"pictures in {folder}")
    return results


def _as_json(row: dict[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False)


def run_command() -> None:
    """Runs this command with the arguments of the command line."""
    define_flags()
    cli.run(main, required=("workdir",), positional="INPUT...")


if __name__ == "__main__":
    run_command()
