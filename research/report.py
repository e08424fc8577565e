"""Writes an HTML report of one run, or of several side by side.

python -m research.report --workdir=runs/a,runs/b
"""

from absl import flags

from research.common import cli
from research.common.storage import absolute, as_path
from research.reporting.report import write_report
from research.reporting.runs import REPORT

FLAGS = flags.FLAGS


def define_flags() -> None:
    """Defines the flags of this command, when called: other modules import this one."""
    flags.DEFINE_list("workdir", None, "Folders of one or several runs: A,B,...")
    flags.DEFINE_string("output", None, "HTML file to write; by default in the first folder.")


def main(_: list[str]) -> None:
    """Writes the report and prints its path."""
    writes = not FLAGS.output
    workdirs = [as_path(name, write=writes and not i) for i, name in enumerate(FLAGS.workdir)]
    name = REPORT if len(workdirs) == 1 else "comparison.html"
    output = as_path(FLAGS.output, write=True) if FLAGS.output else workdirs[0] / name
    print(absolute(write_report(workdirs, output)))


def run_command() -> None:
    """Runs this command with the arguments of the command line."""
    define_flags()
    cli.run(main, required=("workdir",))


if __name__ == "__main__":
    run_command()
