"""Exports a trained run: its parameters, or its prediction as a program, with a model card.

python -m research.export --workdir=runs/digits_cnn --format=safetensors --output=exports/digits
python -m research.export --workdir=runs/digits_cnn --format=stablehlo --output=exports/program
"""

from pathlib import Path

from absl import flags

from research.common import cli
from research.common.config import differences, from_config_dict, to_config_dict
from research.common.errors import UserError
from research.common.files import check_is_new, new_folder, save_json, write_atomically
from research.common.storage import as_path
from research.exporting import safetensors, stablehlo
from research.exporting.card import CARD, Export, model_card
from research.exporting.hub import check_push, push
from research.training.experiment import Experiment
from research.training.run import CONFIG, Run, open_run, saved_config

FLAGS = flags.FLAGS
FORMATS = {"safetensors": safetensors.write, "stablehlo": stablehlo.write}


def define_flags() -> None:
    """Defines the flags of this command, when called: other modules import this one."""
    flags.DEFINE_enum("format", None, list(FORMATS), "Format of the exported file.")
    flags.DEFINE_string("output", None, "New folder for the file, config.json and README.md.")
    flags.DEFINE_enum(
        "dtype", None, ["float32", "bfloat16"], "Short for --change=task.dtype=...; for stablehlo."
    )
    flags.DEFINE_string("license", None, "Licence in the model card, such as apache-2.0.")
    flags.DEFINE_string("push", None, "Repository to upload the folder to, hf:OWNER/NAME.")
    cli.define_run_flags()


def export_run(run: Run, format: str, output: Path, average: int, license: str | None) -> None:
    """Writes a run as a file of a format, with its config and its model card.

    Args:
      run: the run, opened with changes of its config or not.
      format: a key of `FORMATS`.
      output: the folder of the files, missing or empty.
      average: the number of checkpoints whose mean the run's parameters are.
      license: for the model card, an identifier of the Hugging Face Hub; None: not stated.

    Raises:
      UserError: the license is invalid; or the folder is not empty or cannot be written, and is
        unchanged.
    """
    saved = saved_config(run.workdir)
    trained, exported = (
        to_config_dict(experiment).to_dict()["task"]
        for experiment in (from_config_dict(Experiment, saved), run.program.experiment)
    )
    export = Export(differences(trained, exported), average, license)
    with new_folder(output) as folder:
        usage = FORMATS[format](folder, run)
        # The rest of the program's config is fitted to the available devices.
        save_json(folder / CONFIG, saved | {"task": exported})
        write_atomically(folder / CARD, model_card(run, export, usage))


def main(_: list[str]) -> None:
    """Exports the run, and uploads the folder if asked to."""
    if FLAGS.output.startswith("gs:"):
        remedy = "copy it to the bucket by `gcloud storage cp --recursive`"
        raise UserError(f"invalid output {FLAGS.output}: expected a folder on disk; {remedy}")
    if FLAGS.dtype and FLAGS.format != "stablehlo":
        raise UserError(
            f"invalid flag --dtype={FLAGS.dtype}: expected none with --format={FLAGS.format}, "
            "which stores the parameters as trained"
        )
    output = Path(FLAGS.output)
    check_is_new(output)
    repository = check_push(FLAGS.push) if FLAGS.push else None
    changes = FLAGS.change + ([f"task.dtype={FLAGS.dtype}"] if FLAGS.dtype else [])
    run = open_run(as_path(FLAGS.workdir), changes, FLAGS.average)
    export_run(run, FLAGS.format, output, FLAGS.average, FLAGS.license)
    print(f"exported to {output}")
    if repository:
        print(f"pushed to {push(output, repository)}")


def run_command() -> None:
    """Runs this command with the arguments of the command line."""
    define_flags()
    cli.run(main, required=("workdir", "format", "output"))


if __name__ == "__main__":
    run_command()
