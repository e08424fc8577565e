"""Writes an HTML report of one run, or of several side by side.

python -m research.report --workdir=runs/a,runs/b
"""

import hashlib
from collections.abc import Sequence

from absl import flags

from research.common import cli
from research.common.storage import AnyPath, absolute, as_path
from research.reporting.report import write_report
from research.reporting.runs import REPORT

FLAGS = flags.FLAGS
_MAX_NAME = 100  # characters of the runs' names in that of a comparison


def define_flags() -> None:
    """Defines the flags of this command, when called: other modules import this one."""
    flags.DEFINE_list("workdir", None, "Folders of one or several runs: A,B,...")
    flags.DEFINE_string(
        "output",
        None,
        "HTML file to write; by default report.html in the folder "
        "of one run, or A_vs_B.html beside the first of several.",
    )


def default_output(workdirs: Sequence[AnyPath]) -> AnyPath:
    """Returns the file of the report: in the folder of one run, or beside the first of several.

    The file is named after the compared runs, so that another comparison does not replace it.
    """
    if len(workdirs) == 1:
        return workdirs[0] / REPORT
    folders = [absolute(workdir) for workdir in workdirs]
    names = [folder.name for folder in folders]
    if len(set(names)) < len(names):
        names = [f"{folder.parent.name}_{folder.name}" for folder in folders]
    name = "_vs_".join(names)
    if len(name) > _MAX_NAME:
        digest = hashlib.blake2b(name.encode(), digest_size=4).hexdigest()
        name = f"{name[:_MAX_NAME]}_{digest}"
    return folders[0].parent / f"{name}.html"


def main(_: list[str]) -> None:
    """Writes the report and prints its path."""
    writes = not FLAGS.output
    workdirs = [as_path(name, write=writes and not i) for i, name in enumerate(FLAGS.workdir)]
    output = as_path(FLAGS.output, write=True) if FLAGS.output else default_output(workdirs)
    print(absolute(write_report(workdirs, output)))


def run_command() -> None:
    """Runs this command with the arguments of the command line."""
    define_flags()
    cli.run(main, required=("workdir",))


if __name__ == "__main__":
    run_command()
