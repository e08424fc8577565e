"""Writes an HTML report of one run, or of several side by side.

python -m research.report --workdir=runs/a,runs/b
"""

from pathlib import Path

from absl import flags

from research import cli
from research.reporting.report import REPORT, write_report

WORKDIR = flags.DEFINE_list("workdir", None, "Folder of the run, or of several: A,B,...")
OUTPUT = flags.DEFINE_string(
    "output", None, "File to write; by default report.html, or for several comparison.html, in A."
)


def main(_: list[str]) -> None:
    """Prints where the report is."""
    workdirs = [Path(name) for name in WORKDIR.value]
    default = workdirs[0] / (REPORT if len(workdirs) == 1 else "comparison.html")
    print(write_report(workdirs, Path(OUTPUT.value) if OUTPUT.value else default).absolute())


if __name__ == "__main__":
    flags.mark_flags_as_required(["workdir"])
    cli.run(main)
