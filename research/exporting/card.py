"""The model card of an exported run, in the format of the Hugging Face Hub."""

import inspect
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax

from research.common.errors import UserError
from research.common.files import read_json
from research.common.storage import AnyPath, absolute
from research.data.splits import split_label
from research.reporting.runs import SUMMARY, evaluation_file, metrics_of
from research.reporting.table import markdown_table
from research.reporting.text import duration
from research.training.metrics import is_breakdown
from research.training.run import Run

CARD = "README.md"


@dataclass(frozen=True)
class Export:
    """How a run is exported."""

    changes: Sequence[str]
    """Differences to the task's config as trained, such as "dtype: float32 -> bfloat16"."""

    average: int
    """Number of checkpoints whose mean the parameters are."""

    license: str | None
    """Identifier of the Hugging Face Hub, such as "apache-2.0"; None: not stated."""

    def __post_init__(self):
        if self.license is not None and not re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", self.license):
            expected = "expected an identifier of the Hugging Face Hub, such as apache-2.0"
            raise UserError(f"invalid license '{self.license}': {expected}")


def model_card(run: Run, export: Export, usage: str) -> str:
    """Returns the model card of a run, as Markdown.

    The scores are those that the run's workdir contains; nothing is evaluated.

    Args:
      run: the run, opened with the changes and the average of `export`.
      export: how it is exported.
      usage: how to use the exported file, as Markdown.

    Raises:
      UserError: a file of the workdir is damaged.
    """
    license = f"license: {export.license}\n" if export.license else ""
    tags = "".join(f"- {tag}\n" for tag in ("jax", "flax", _kebab(type(run.program.task).__name__)))
    sections = {
        "Model": _model(run, export),
        "Scores": _scores(run, export),
        "Training": _training(run.workdir),
        "Use": usage,
        "Licence": export.license or "Not stated; ask the author before you use the model.",
    }
    body = "\n".join(f"## {title}\n{text.strip()}\n" for title, text in sections.items())
    head = f"---\n{license}library_name: jax\ntags:\n{tags}---\n"
    return f"{head}\n# {absolute(run.workdir).name}\n\n{body}"


def _model(run: Run, export: Export) -> str:
    task, params = run.program.task, jax.tree.leaves(run.state.params)
    rows = {"task": _described(task)}
    for part in ("source", "model"):
        if hasattr(task, part):
            rows["data" if part == "source" else part] = _described(getattr(task, part))
    rows["parameters"] = f"{sum(leaf.size for leaf in params):,}"
    rows["step"] = f"{int(run.state.step):,}"
    if export.average > 1:
        rows["average"] = f"mean of the last {export.average} checkpoints"
    if export.changes:
        rows["changed config"] = ", ".join(f"`{change}`" for change in export.changes)
    return markdown_table(("", ""), rows.items()) + "\n\n`config.json` is the complete config."


def _scores(run: Run, export: Export) -> str:
    rows, step = [], int(run.state.step)
    for split in ("train", "validation", "test"):
        path = run.workdir / evaluation_file(split)
        rows += _evaluation(path, split) if path.exists() else []
    if not rows:
        return "The run was not evaluated."
    text = "Measured by `python -m research.evaluate`, on the complete split."
    if export.average > 1 or export.changes or any(row[3] != f"{step:,}" for row in rows):
        text += (
            " They are scores of the run as trained, at the step in the table; the exported model "
            "differs from it and was not evaluated."
        )
    return f"{text}\n\n{markdown_table(('split', 'metric', 'value', 'step'), rows)}"


def _evaluation(path: AnyPath, split: str) -> list[tuple[str, str, str, str]]:
    """Returns the rows of an evaluation file: split, name and value of a metric, and the step."""
    record = read_json(path)
    shown = split_label(split, record.get("split", split))
    try:
        step = f"{int(record['step']):,}"
        return [
            (shown, name, f"{value:,}" if isinstance(value, int) else f"{value:.4f}", step)
            for name, value in metrics_of(record).items()
            if not is_breakdown(name)
        ]
    except (AttributeError, KeyError, TypeError, ValueError):
        raise UserError(
            f"invalid {path}: expected metrics and a step; `python -m research.evaluate` writes it"
        ) from None


def _training(workdir: AnyPath) -> str:
    path = workdir / SUMMARY
    if not path.exists():
        return "The training has not finished, so that its command was not recorded."
    summary = read_json(path)
    try:
        seconds, compilation = float(summary["seconds"]), float(summary["compile_seconds"])
        rows = [
            ("hardware", summary["hardware"]),
            ("duration", f"{duration(seconds)}, and {duration(compilation)} of compilation"),
            ("JAX", summary["jax"]),
        ]
        return f"```\n{summary['command']}\n```\n\n{markdown_table(('', ''), rows)}"
    except (KeyError, TypeError, ValueError):
        problem = f"invalid {path}: expected the facts of a training"
        raise UserError(f"{problem}; remove it, and `python -m research.train` writes it") from None


def _described(value: Any) -> str:
    """Returns the class of a part of the config, and the first line of its documentation."""
    summary = (inspect.getdoc(type(value)) or "").split("\n")[0]
    return f"`{type(value).__name__}`: {summary}"


def _kebab(name: str) -> str:
    """Converts "ImageClassification" to "image-classification", as the Hub writes tasks."""
    return "".join(f"-{c.lower()}" if c.isupper() else c for c in name).removeprefix("-")
