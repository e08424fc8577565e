"""The files of a run that a report shows; data and checkpoints are not opened."""

import math
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from research.common.config import flatten, from_config_dict
from research.common.documentation import Entry, entries
from research.common.errors import ConfigError, UserError
from research.common.files import finite_or_none, read_json, save_json, write_atomically
from research.common.storage import AnyPath
from research.reporting.figures import Figure, is_metric, sort_metrics
from research.reporting.page import content_of, page
from research.task import Metric, Task
from research.training.experiment import Experiment
from research.training.metrics import is_breakdown, read_metrics
from research.training.run import saved_config

REPORT, SUMMARY, FIGURES = "report.html", "summary.json", "figures"


def evaluation_file(split: str) -> str:
    """Returns the name of the file with the evaluation of a split."""
    return f"evaluation_{split}.json"


def save_evaluation(
    workdir: AnyPath, split: str, record: Mapping[str, Any], figures: Sequence[Figure]
) -> None:
    """Writes an evaluation to a workdir.

    Args:
      workdir: of the run.
      split: the evaluated one.
      record: `metrics`, of which those that are not finite become null, `notes` and `step`.
      figures: of the scorer; each becomes a page of its own in the folder `figures`.
    """
    files = []
    for figure in figures:
        name = re.sub(r"\W+", "_", figure.title).lower()
        path = f"{FIGURES}/{split}_{name}.html"
        write_atomically(workdir / path, page(figure.title, figure.html()))
        files.append({"title": figure.title, "file": path})
    evaluation = {**record, "metrics": finite_or_none(record["metrics"]), "figures": files}
    save_json(workdir / evaluation_file(split), evaluation)


def metrics_of(evaluation: Mapping[str, Any]) -> dict[str, float]:
    """Returns the metrics of an evaluation file, in which those that are not finite are null."""
    metrics = evaluation["metrics"]
    return {name: math.nan if value is None else value for name, value in metrics.items()}


class RunFiles:
    """A workdir.

    Args:
      workdir: the folder.
      name: of the run, in the report.

    Raises:
      UserError: it contains no run, or a run without metrics.
    """

    def __init__(self, workdir: AnyPath, name: str):
        self.workdir, self.name = workdir, name
        self.config = saved_config(workdir)
        self.lines = read_metrics(workdir)
        self.summary = _read(workdir / SUMMARY)
        self.test = _read(workdir / evaluation_file("test"))
        if not self.lines:
            raise UserError(f"missing metrics in {workdir}; train the run first")

    @property
    def task(self) -> str:
        """Name of the task's class."""
        return self.config["task"]["type"]

    @cached_property
    def metrics(self) -> Mapping[str, Metric]:
        """Titles and units of the task's metrics; none if this version has no such task."""
        tasks = Task.variants()
        return tasks[self.task].metrics if self.task in tasks else {}

    @property
    def scores(self) -> dict[str, float]:
        """Metrics of `split`, the one that counts first; without those of parts."""
        scores = self._metrics
        names = [name for name in scores if not is_breakdown(name)]
        return {name: scores[name] for name in sort_metrics(names, self.metrics)}

    def score(self, split: str, name: str) -> float | None:
        """Returns a metric; None if the scores are of another split or lack it."""
        return self.scores.get(name) if split == self.split else None

    @property
    def main_metric(self) -> str:
        """Name of the metric that counts."""
        names = {name for line in self.lines for name in line} | set(self.scores)
        return sort_metrics([name for name in names if is_metric(name)], self.metrics)[0]

    @property
    def parts(self) -> dict[str, float]:
        """Metrics of parts of `split`, such as `ap/NAME` of each class."""
        return {name: value for name, value in self._metrics.items() if is_breakdown(name)}

    @property
    def _metrics(self) -> dict[str, float]:
        return metrics_of(self.test) if "metrics" in self.test else {}

    @property
    def split(self) -> str:
        """The split that the scores are of."""
        return self.test.get("split", "test")

    @property
    def notes(self) -> list[str]:
        """What a reader of the scores must know."""
        if not self.test:
            return ["Not evaluated yet."]
        notes = list(self.test.get("notes", []))
        if self.split != "test":
            text = f"these are scores of the {self.split} split"
            notes.append(f"The data have no test split; {text}.")
        return notes

    @property
    def steps(self) -> int:
        """Steps of the training so far."""
        return self.lines[-1]["step"]

    @property
    def values(self) -> dict[str, Any]:
        """The values of the config by dotted key."""
        return flatten(self.config)

    @cached_property
    def entries(self) -> list[Entry] | None:
        """The keys of the config with documentation and defaults.

        None if this version does not know them all, and if a class is the user's own: opening such
        a config executes its file, and the workdir may be a stranger's.
        """
        if any(key.endswith(".type") and ":" in str(value) for key, value in self.values.items()):
            return None
        try:
            return list(entries(from_config_dict(Experiment, self.config)))
        except ConfigError:
            return None

    @property
    def figures(self) -> list[Figure]:
        """Figures of the test split, without the pictures that older versions wrote."""
        figures = []
        for one in self.test.get("figures", []):
            if isinstance(one, dict) and (path := self.workdir / one["file"]).exists():
                figures.append(Figure(one["title"], content_of(path.read_text())))
        return figures


def _read(path: AnyPath) -> dict[str, Any]:
    return read_json(path) if path.exists() else {}
