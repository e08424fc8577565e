"""Figures that every task uses, such as learning curves."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from research.common.files import write_atomically
from research.common.storage import AnyPath
from research.training.metrics import is_breakdown

DPI = 160  # for high-resolution screens
_NOT_METRICS = {"step", "split", "seconds", "compilations", "examples"}
_COLOURS = ("#0969da", "#d1570c", "#1a7f37", "#8250df", "#bf3989", "#57606a")
_STYLES = {"train": "-", "validation": "--"}


def learning_curves(runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> Figure:
    """Plots each metric over the steps, for one or several runs.

    Each run has a colour (a single run: each split), training a solid and validation a dashed line.
    Metrics of parts, such as `ap/NAME` of each class, are omitted: there can be hundreds.

    Args:
      runs: the lines of `metrics.jsonl`, by name of the run.
    """
    known = {name for lines in runs.values() for line in lines for name in line}
    names = sorted(name for name in known - _NOT_METRICS if not is_breakdown(name))
    # Metrics of the validation split come first, as they matter most.
    validated = {
        n for lines in runs.values() for line in lines if line["split"] != "train" for n in line
    }
    names.sort(key=lambda name: (name not in validated, name != "loss", name))
    columns = min(3, max(len(names), 1))
    rows = max(-(-len(names) // columns), 1)
    figure = Figure(figsize=(4.2 * columns, 2.9 * rows), layout="constrained")
    for i, axes in enumerate(figure.subplots(rows, columns, squeeze=False).flat):
        if i >= len(names):
            axes.axis("off")
            continue
        name = names[i]
        for label, colour, style, steps, values in _curves(runs, name):
            marker = "." if len(steps) == 1 else ""
            axes.plot(steps, values, style, color=colour, label=label, marker=marker, linewidth=1.5)
        axes.set_title(name.replace("_", " "), fontsize=10)
        axes.set_xlabel("step", fontsize=8)
        axes.tick_params(labelsize=8)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(fontsize=8, frameon=False)
    return figure


def png(figure: Figure) -> bytes:
    """Encodes a figure as PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=DPI)
    return buffer.getvalue()


def save_figure(figure: Figure, path: AnyPath) -> None:
    """Writes a figure as a PNG file."""
    write_atomically(path, png(figure))


def _curves(
    runs: Mapping[str, Sequence[Mapping[str, Any]]], name: str
) -> list[tuple[str, str, str, list[int], list[float]]]:
    """Returns label, colour, line style, steps and values of each curve of a metric."""
    curves = []
    for run_number, (run, lines) in enumerate(runs.items()):
        for split_number, (split, style) in enumerate(_STYLES.items()):
            chosen = [line for line in lines if line["split"] == split and name in line]
            if chosen:
                colour = _COLOURS[(split_number if len(runs) == 1 else run_number) % len(_COLOURS)]
                label = split if len(runs) == 1 else f"{run} {split}"
                steps, values = zip(*((line["step"], line[name]) for line in chosen), strict=True)
                curves.append((label, colour, style, list(steps), list(values)))
    return curves
