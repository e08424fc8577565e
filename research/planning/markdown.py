"""The README's tables of predicted steps, from the recorded plans."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from research.common.errors import UserError
from research.hardware.chips import chips
from research.hardware.slices import one_chip
from research.reporting.table import markdown_table
from research.reporting.text import duration

_BEGIN, _END = "<!-- `make plan-all` writes these tables -->", "<!-- end of the tables -->"
Row = Mapping[str, Any]
Plans = Mapping[str, Mapping[str, Row]]


def replace_tables(readme: Path, text: str) -> None:
    """Replaces the tables of a README, which two comments enclose.

    Raises:
      UserError: the comments are missing.
    """
    page = readme.read_text()
    if _BEGIN not in page or _END not in page:
        raise UserError(f"missing comments '{_BEGIN}' and '{_END}' in {readme}")
    before, after = page[: page.index(_BEGIN)], page[page.index(_END) :]
    readme.write_text(f"{before}{_BEGIN}\n{text}\n{after}")


def tables(plans: Plans, cells: Mapping[str, Sequence[Row]]) -> str:
    """Returns the tables as Markdown.

    Args:
      plans: rows of `experiments/tpu.json` by experiment and slice.
      cells: experiments on all kinds of chips, see `compare.Cell`.
    """
    return "\n\n".join(filter(None, [_chips(cells), _runs(plans), _steps(plans)]))


def _chips(compared: Mapping[str, Sequence[Row]]) -> str:
    """Examples per second and dollars per million examples of experiments on all chips."""
    cells = {
        name: {cell["chip"]: _cell(cell) for cell in of_name} for name, of_name in compared.items()
    }
    found = {cell["chip"]: cell["basis"] for of_name in compared.values() for cell in of_name}
    names = sorted(found, key=lambda chip: found[chip] == "measured")
    header = ["one chip", "basis", *map(_short, compared)]
    rows = [
        [chip, found[chip], *(of_name.get(chip, "") for of_name in cells.values())]
        for chip in names
    ]
    return markdown_table(header, rows)


def _cell(cell: Row) -> str:
    if not cell["fits"]:
        return "does not fit"
    price = f", ${cell['dollars']:,.3g}" if cell["dollars"] is not None else ""
    return f"{_rounded(cell['examples_per_second'])}/s{price}"


def _rounded(value: float) -> str:
    """Formats a number with three significant digits and no exponent."""
    return f"{float(f'{value:.3g}'):,.12g}"


def _runs(plans: Plans) -> str:
    """Time and price of whole runs on the slices of the large experiments."""
    rows = [
        [
            _short(name),
            slice_name,
            str(row["batch_size"]),
            _step(row),
            duration(row["run_seconds"]),
            f"${row['run_dollars']:,.0f}",
        ]
        for name, of_name in plans.items()
        for slice_name, row in of_name.items()
        if _is_several(slice_name) and row.get("run_dollars") is not None
    ]
    header = ["experiment", "slice", "batch size", "step", "whole run", "list price"]
    return markdown_table(header, rows) if rows else ""


def _steps(plans: Plans) -> str:
    """Step times of all experiments on one chip."""
    found = {chip for of_name in plans.values() for chip in of_name if not _is_several(chip)}
    names = [one_chip(chip).name for chip in chips() if one_chip(chip).name in found]
    rows = [
        [f"`{_short(name)}`", *(_step(of_name.get(chip)) for chip in names)]
        for name, of_name in plans.items()
    ]
    table = markdown_table(["step on one chip", *names], rows)
    return f"<details><summary>All experiments</summary>\n\n{table}\n\n</details>"


def _is_several(slice_name: str) -> bool:
    """Returns whether a slice, such as v4, v5e-1 or v5e-16, has several chips."""
    return "-" in slice_name and not slice_name.endswith("-1")


def _step(row: Row | None) -> str:
    if row is None:
        return ""
    if "failure" in row:
        return "no plan"
    return f"{_rounded(1e3 * row['step_seconds'])} ms" if row["fits"] else "does not fit"


def _short(experiment: str) -> str:
    """Returns the name of an experiment, with its folder where that is `transfer`."""
    folder, name = experiment.split("/")
    return experiment if folder == "transfer" else name
