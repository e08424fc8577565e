"""Figures of reports and notebooks, and the learning curves of runs."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from research.reporting.charts import Axis, Series, legend, line_chart
from research.reporting.html import Html, element, join
from research.reporting.page import script, style
from research.task import Metric
from research.training.metrics import is_breakdown

_NOT_METRICS = {"step", "split", "seconds", "compilations", "examples", "skipped"}
_ENGINE = {  # metrics that the engine adds to those of the tasks
    "loss": Metric("loss", better="lower"),
    "gradient_norm": Metric("gradient norm"),
    "learning_rate": Metric("learning rate"),
    "examples_per_second": Metric("throughput", "examples/s"),
}
_LOG_RATIO = 30  # of the largest to the smallest loss, above which its axis is logarithmic


@dataclass(frozen=True)
class Figure:
    """A figure of a report; notebooks display it."""

    title: str
    """The same in every run of a task, such as "Confusion matrix"."""

    content: Html

    caption: str = ""
    """What this one shows, in one or two sentences."""

    def html(self) -> Html:
        """Returns caption and content."""
        caption = element("p", self.caption, class_="caption") if self.caption else Html()
        return join([caption, self.content])

    def _repr_html_(self) -> str:
        return join([style(), element("main", self.html()), script()])


def describe(name: str, metrics: Mapping[str, Metric]) -> Metric:
    """Returns the title and unit of a metric; by default its name.

    Args:
      name: of the metric, or of a part such as `ap/NAME` of one class.
      metrics: of the task.
    """
    whole, _, part = name.partition("/")
    metric = metrics.get(whole) or _ENGINE.get(whole) or Metric(whole.replace("_", " "))
    return metric._replace(title=f"{metric.title}, {part}") if part else metric


def is_metric(name: str) -> bool:
    """Returns whether a key of the metrics is a metric of its own, with a learning curve."""
    return name not in _NOT_METRICS and not is_breakdown(name)


def sort_metrics(names: Sequence[str], metrics: Mapping[str, Metric]) -> list[str]:
    """Sorts metrics: those of the task in its order, then the loss, others, and the engine's."""
    order = [*metrics, "loss"]
    last = [name for name in _ENGINE if name not in order]

    def key(name: str) -> tuple[int, int, str]:
        whole = name.partition("/")[0]
        if whole in order:
            return 0, order.index(whole), name
        return (2, last.index(whole), name) if whole in last else (1, 0, name)

    return sorted(names, key=key)


def learning_curves(
    runs: Mapping[str, Sequence[Mapping[str, Any]]],
    metrics: Mapping[str, Metric] | None = None,
    groups: Mapping[str, str] | None = None,
) -> Figure:
    """Plots each metric over the steps, for one or several runs.

    Metrics of parts, such as `ap/NAME` of each class, are omitted: there can be hundreds.

    Args:
      runs: the lines of `metrics.jsonl`, by name of the run.
      metrics: of the task.
      groups: name of the group by name of the run; a group has one colour. Default: the run.
    """
    metrics, groups = metrics or {}, groups or {name: name for name in runs}
    known = {name for lines in runs.values() for line in lines for name in line}
    names = sort_metrics([name for name in known if is_metric(name)], metrics)
    curves = {name: _curves(runs, name, describe(name, metrics), groups) for name in names}
    charts = [_chart(describe(name, metrics), shown, name) for name, shown in curves.items()]
    every = [curve for shown in curves.values() for curve in shown]
    keys = ("train", "validation") if len(runs) == 1 else groups.values()
    # The appearance of validation is that of the legend.
    entries = legend({key: key for key in keys}, sorted(every, key=lambda one: not one.kind))
    caption = "" if len(runs) == 1 else "Bold: validation. Thin: training."
    body = join([entries, element("div", *charts, class_="charts")])
    return Figure("Learning curves", body, caption)


def _chart(metric: Metric, curves: Sequence[Series], name: str) -> Html:
    values = [value for curve in curves for value in curve.y if math.isfinite(value)]
    low, high = min(values, default=0), max(values, default=0)
    log = name.endswith("loss") and low > 0 and high / low > _LOG_RATIO
    last = max((curve.x[-1] for curve in curves), default=1)
    return line_chart(metric.title, Axis("step", 0, last), Axis(metric.unit, log=log), curves)


def _curves(
    runs: Mapping[str, Sequence[Mapping[str, Any]]],
    name: str,
    metric: Metric,
    groups: Mapping[str, str],
) -> list[Series]:
    """Returns the curves of a metric, those of validation on top."""
    curves, is_alone, colors = [], len(runs) == 1, list(dict.fromkeys(groups.values()))
    for number, split in enumerate(("train", "validation")):
        for run, lines in runs.items():
            chosen = [line for line in lines if line["split"] == split and name in line]
            curve = Series(
                name=split if is_alone else f"{run}, {split}",
                x=[line["step"] for line in chosen],
                y=[metric.scale * line[name] for line in chosen],
                color=number if is_alone else colors.index(groups[run]),
                kind="" if number else "thin",
                key=split if is_alone else groups[run],
            )
            curves += [curve] if chosen else []
    return curves
