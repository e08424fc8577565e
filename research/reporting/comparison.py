"""The HTML report of several runs: each task has its own scores, curves and figures."""

import json
import math
from collections.abc import Mapping, Sequence
from statistics import fmean, stdev
from typing import NamedTuple

from research.reporting.charts import NUM_COLORS
from research.reporting.elements import Cell, Number, config_key, table
from research.reporting.figures import describe, is_metric, learning_curves, sort_metrics
from research.reporting.html import Html, element, join
from research.reporting.runs import RunFiles
from research.reporting.seeds import Difference, SeedGroup, difference, group_by_seed
from research.reporting.text import duration, shorten
from research.task import Metric

_MAX_OPEN = 3  # runs whose figures are open; those of more would make a long page


def comparison(runs: Sequence[RunFiles]) -> list[Html]:
    """Returns the sections of a report of several runs."""
    tasks: dict[tuple[str, str], list[RunFiles]] = {}
    for run in runs:
        # Runs of one class can have different metrics, such as translation and pronunciation.
        tasks.setdefault((run.task, run.main_metric), []).append(run)
    parts = [element("h1", f"{len(runs)} runs")]
    for (task, _), members in tasks.items():
        parts.append(element("section", element("h2", task), *_task_sections(members)))
    return parts


def _task_sections(runs: Sequence[RunFiles]) -> list[Html]:
    groups = group_by_seed(runs)
    colors = {run.name: number for number, group in enumerate(groups) for run in group.runs}
    parts = [_scores(runs, colors)]
    parts += [
        element("p", f"{run.name}: {note}", class_="note") for run in runs for note in run.notes
    ]
    if any(len(group.runs) > 1 for group in groups):
        parts += [element("h3", "Seeds"), _seeds(groups)]
    if len(runs) > 1:
        parts += [element("h3", "Differences of the configs"), _differences(runs)]
    names = {run.name: group.name for group in groups for run in group.runs}
    curves = learning_curves({run.name: run.lines for run in runs}, runs[0].metrics, names)
    return [*parts, element("h3", curves.title), curves.html(), *_figures(runs, colors)]


class _Column(NamedTuple):
    """A metric of one split: scores of different splits are not compared."""

    split: str
    name: str
    metric: Metric

    @property
    def title(self) -> str:
        return f"{self.split} {self.metric.title}"


def _columns(runs: Sequence[RunFiles]) -> list[_Column]:
    """Returns the metrics of the runs, in the order of their task."""
    metrics = runs[0].metrics
    splits: dict[str, set[str]] = {}
    for run in runs:
        splits.setdefault(run.split, set()).update(run.scores)
    return [
        _Column(split, name, describe(name, metrics))
        for name in sort_metrics(list(set().union(*splits.values())), metrics)
        for split, known in splits.items()
        if name in known
    ]


def _scores(runs: Sequence[RunFiles], colors: Mapping[str, int]) -> Html:
    """Returns a table with a row for each run; the best values are bold."""
    columns = _columns(runs)
    best = {column: _best(runs, column) for column in columns} if len(runs) > 1 else {}
    rows = []
    for run in runs:
        cells: list[Cell] = [_name(run, colors)]
        for column in columns:
            value = run.score(column.split, column.name)
            cells.append(_score(value, column.metric, value == best.get(column)))
        rows.append([*cells, Number(f"{run.steps:,}", run.steps), *_sizes(run)])
    header = ["run", *(column.title for column in columns)]
    return table([*header, "steps", "parameters", "training", "hardware"], rows)


def _sizes(run: RunFiles) -> list[Cell]:
    summary = run.summary
    if not summary:
        return ["", "", "not finished"]
    count, seconds = summary["parameters"], summary["seconds"]
    return [Number(f"{count:,}", count), Number(duration(seconds), seconds), summary["hardware"]]


def _score(value: float | None, metric: Metric, is_best: bool) -> Cell:
    if value is None:
        return "-"
    text = metric.text(value)
    return Number(element("b", text) if is_best else text, value)


def _best(runs: Sequence[RunFiles], column: _Column) -> float | None:
    scores = [run.score(column.split, column.name) for run in runs]
    values = [value for value in scores if value is not None and math.isfinite(value)]
    choose = {"higher": max, "lower": min}.get(column.metric.better)
    return choose(values) if choose and values else None


def _name(run: RunFiles, colors: Mapping[str, int]) -> Html:
    swatch = element("span", class_=f"swatch c{colors[run.name] % NUM_COLORS}")
    return element("span", swatch, run.name, class_="run")


def _seeds(groups: Sequence[SeedGroup]) -> Html:
    """Returns mean and deviation over seeds, and the differences from the first group."""
    runs = [run for group in groups for run in group.runs]
    columns = [column for column in _columns(runs) if is_metric(column.name)]
    rows, compared = [], []
    for group in groups:
        cells: list[Cell] = [group.name, Number(str(len(group.runs)), len(group.runs))]
        for column in columns:
            values = group.values(column.split, column.name)
            cells.append(_mean(values, column.metric))
            if group is not groups[0]:
                found = difference(groups[0].values(column.split, column.name), values)
                compared += [(group.name, *_difference(found, column))] if found else []
        rows.append(cells)
    parts = [table(("run", "seeds", *(column.title for column in columns)), rows)]
    if compared:
        text = f"Mean minus that of {groups[0].name}, with Welch's t-test. Below p = 0.05 the "
        text += "interval does not contain 0. pp: percentage points."
        header = ["run", "metric", "difference", "95 % confidence interval", "p"]
        parts += [element("p", text, class_="caption"), table(header, compared)]
    return join(parts)


def _mean(values: Sequence[float], metric: Metric) -> Cell:
    """Returns mean and standard deviation."""
    if not values:
        return "-"
    mean = fmean(values)
    has_spread = len(values) > 1 and math.isfinite(mean)
    spread = f" ± {metric.number(stdev(values))}" if has_spread else ""
    return Number(f"{metric.number(mean)}{spread} {metric.unit}".rstrip(), mean)


def _difference(found: Difference, column: _Column) -> list[Cell]:
    metric = column.metric
    unit = "pp" if metric.unit == "%" else metric.unit
    low, high = metric.number(found.low), metric.number(found.high)
    return [
        column.title,
        Number(f"{metric.number(found.mean)} {unit}".rstrip(), found.mean),
        f"{low} to {high}",
        Number(f"{found.p:.2g}", found.p),
    ]


def _differences(runs: Sequence[RunFiles]) -> Html:
    """Returns a table of the config keys that differ between the runs."""
    configs = [run.values for run in runs]
    keys = dict.fromkeys(key for config in configs for key in config)
    different = [k for k in keys if len({json.dumps(config.get(k)) for config in configs}) > 1]
    if not different:
        return element("p", "The configs are equal.", class_="caption")
    rows = [
        (config_key(key), *(shorten(str(config.get(key, "-"))) for config in configs))
        for key in different
    ]
    return table(("key", *(run.name for run in runs)), rows)


def _figures(runs: Sequence[RunFiles], colors: Mapping[str, int]) -> list[Html]:
    """Returns the figures of the evaluations, those of equal titles under one heading."""
    titles: dict[str, list[Html]] = {}
    for run in runs:
        for figure in run.figures:
            content = element("div", element("h4", _name(run, colors)), figure.html())
            titles.setdefault(figure.title, []).append(content)
    is_open = len(runs) <= _MAX_OPEN
    parts = []
    for title, shown in titles.items():
        heading = element("summary", element("h3", title))
        panels = element("div", *shown, class_="runs")
        parts.append(element("details", heading, panels, open=is_open, class_="heading"))
    return parts
