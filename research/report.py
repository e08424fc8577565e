"""Writes an HTML report of one run, or of several side by side.

python -m research.report --workdir=runs/a,runs/b
"""

from pathlib import Path

from absl import flags

from research import cli
from research.errors import UserError
from research.reporting.report import REPORT, write_report

FLAGS = flags.FLAGS


def define_flags() -> None:
    """The flags of this verb; not at import, so that other verbs can import this one."""
    flags.DEFINE_list("workdir", None, "Folder of the run, or of several: A,B,...")
    flags.DEFINE_string("output", None, "File to write; by default in the first folder.")


def main(_: list[str]) -> None:
    """Prints where the report is."""
    workdirs = [Path(name) for name in FLAGS.workdir]
    if not workdirs:
        raise UserError("--workdir is empty; name the folder of a run")
    default = workdirs[0] / (REPORT if len(workdirs) == 1 else "comparison.html")
    print(write_report(workdirs, Path(FLAGS.output) if FLAGS.output else default).absolute())


if __name__ == "__main__":
    define_flags()
    cli.run(main, required=("workdir",))
