"""Trains an experiment, or resumes it, then evaluates the test split and writes a report.

python -m research.train --config=experiments/image_classification/digits_cnn.py --workdir=runs/a

Ctrl-C saves a checkpoint and exits with code 130; the same command resumes.
"""

import logging
import shlex
import sys
from pathlib import Path

import jax
from absl import flags

from research.common import cli
from research.common.files import read_json, save_json
from research.common.storage import AnyPath, absolute, as_path
from research.data.splits import split_label
from research.evaluate import evaluate_run
from research.reporting.report import write_report
from research.reporting.runs import REPORT, SUMMARY, evaluation_file
from research.training.experiment import load_experiment
from research.training.loop import Trainer
from research.training.metrics import format_metrics
from research.training.summary import summarize

log = logging.getLogger("research")
FLAGS = flags.FLAGS


def define_flags() -> None:
    """Defines the flags of this command, when called: other modules import this one."""
    flags.DEFINE_string("config", None, "Experiment file.")
    cli.define_config_changes()
    flags.DEFINE_string("workdir", None, "Folder of the run: checkpoints, metrics and report.")
    flags.DEFINE_bool("allow_config_change", False, "Resume a run with a different config.")


def main(_: list[str]) -> None:
    """Trains, evaluates and writes the report."""
    workdir = as_path(FLAGS.workdir, write=True)
    experiment = load_experiment(Path(FLAGS.config), cli.config_changes())
    trainer = Trainer(experiment, workdir, FLAGS.allow_config_change)
    run, trained = trainer.train()
    if not trained and _reported(workdir, trainer.total):
        log.info("%s is finished after %d steps; nothing to do", workdir, trainer.total)
        return
    results = evaluate_run(run, "test")
    if jax.process_index() == 0:
        command = ["python", "-m", "research.train", *sys.argv[1:]]
        save_json(workdir / SUMMARY, summarize(run, trainer.data.sampler, command))
        report = write_report([workdir], workdir / REPORT)
        opened = run.program.task.opened_split("test")
        shown = format_metrics(results, run.program.task.metrics)
        log.info("%s: %s", split_label("test", opened), shown)
        log.info("run     %s", absolute(workdir))
        log.info("report  %s, for a browser", absolute(report))
        curves = shlex.join(["tensorboard", "--logdir", str(absolute(workdir))])
        log.info("curves  `%s`, after `pip install tensorboard`", curves)


def _reported(workdir: AnyPath, step: int) -> bool:
    """Returns whether the run was evaluated and reported at `step`; it may have been killed."""
    evaluation = workdir / evaluation_file("test")
    reported = evaluation.exists() and (workdir / REPORT).exists()
    return reported and read_json(evaluation)["step"] == step


def run_command() -> None:
    """Runs this command with the arguments of the command line."""
    define_flags()
    cli.run(main, required=("config", "workdir"))


if __name__ == "__main__":
    run_command()
