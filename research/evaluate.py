"""Evaluates a trained run on a split; every example counts exactly once.

python -m research.evaluate --workdir=runs/digits --split=test --json
"""

import json
import re

import jax
from absl import flags

from research.common import cli
from research.common.files import save_json
from research.common.storage import as_path
from research.reporting.figures import save_figure
from research.reporting.report import FIGURES, evaluation_file
from research.training.evaluation import evaluate
from research.training.run import Run, open_run

FLAGS = flags.FLAGS


def define_flags() -> None:
    """The flags of this verb; not at import, so that other verbs can import this one."""
    flags.DEFINE_enum("split", "test", ["train", "validation", "test"], "What to evaluate on.")
    flags.DEFINE_bool("json", False, "Print one line of JSON.")
    cli.define_run_flags()


def evaluate_run(run: Run, split: str, keep: bool = True) -> dict[str, float]:
    """The metrics of a run on a split, which with their figures go into its workdir too."""
    dataset = run.program.task.dataset(split)
    results, scorer = evaluate(run.program, run.state, dataset)
    if keep and jax.process_index() == 0:
        files = {}
        for title, figure in scorer.figures(dataset).items():
            name = re.sub(r"\W+", "_", title.split(",")[0]).lower()
            files[title] = f"{FIGURES}/{split}_{name}.png"
            save_figure(figure, run.workdir / files[title])
        record = {"metrics": results, "figures": files, "step": int(run.state.step)}
        save_json(run.workdir / evaluation_file(split), record)
    return results


def in_words(results: dict[str, float]) -> str:
    """`accuracy 0.9972, loss 0.1500, examples 360`."""
    shown = (f"{k} {v}" if isinstance(v, int) else f"{k} {v:.4f}" for k, v in results.items())
    return ", ".join(shown)


def main(_: list[str]) -> None:
    """Prints the metrics."""
    # The workdir tells of the run as it is; what a changed one gives is only printed.
    keep = not FLAGS.change and FLAGS.average == 1
    run = open_run(as_path(FLAGS.workdir, write=keep), FLAGS.change, FLAGS.average)
    results = evaluate_run(run, FLAGS.split, keep)
    if jax.process_index() == 0:
        print(json.dumps(results) if FLAGS.json else f"{FLAGS.split}: {in_words(results)}")


if __name__ == "__main__":
    define_flags()
    cli.run(main, required=("workdir",))
