"""Metrics as JSON lines and as TensorBoard events."""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from etils import epath
from tensorboardX import SummaryWriter

from research.common.errors import UserError
from research.common.files import write_atomically
from research.common.storage import AnyPath, is_in_bucket
from research.task import Metric

FILE = "metrics.jsonl"
_PERIOD = 10.0  # seconds between writes; a bucket accepts one write per object and second


class MetricWriter:
    """Writes `metrics.jsonl` and TensorBoard's event files in a workdir.

    A resumed run continues after `step`: later lines of the interrupted run are removed, so that
    the file is that of an uninterrupted run. A run that starts at step 0 also removes the event
    files of a former one.

    Objects in a bucket cannot be appended to, so files there are rewritten, by `flush` and at most
    every few seconds.
    """

    def __init__(self, workdir: AnyPath, step: int):
        kept = [line for line in read_metrics(workdir) if line["step"] <= step]
        self._path = workdir / FILE
        self._lines = [json.dumps(line) + "\n" for line in kept]
        self._events = workdir / "tensorboard"
        if step == 0:
            epath.Path(self._events).rmtree(missing_ok=True)
        # tensorboardX can write to a bucket, but silently loses all events after one failure.
        self._copied = TemporaryDirectory() if is_in_bucket(workdir) else None
        folder = self._copied.name if self._copied else str(self._events)
        self._board = SummaryWriter(folder, purge_step=step + 1 if step else None)
        self.flush()

    def write(self, step: int, split: str, values: dict[str, float]) -> None:
        """Adds the values of a split after a step."""
        self._lines.append(json.dumps({"step": step, "split": split, **values}) + "\n")
        for name, value in values.items():
            self._board.add_scalar(f"{split}/{name}", value, step)
        if time.monotonic() - self._written > _PERIOD:
            self.flush()

    def flush(self) -> None:
        """Writes all lines and events added so far."""
        write_atomically(self._path, "".join(self._lines))
        self._board.flush()
        if self._copied:
            for file in Path(self._copied.name).iterdir():
                write_atomically(self._events / file.name, file.read_bytes())
        self._written = time.monotonic()

    def close(self) -> None:
        """Writes the last lines and events."""
        self.flush()
        self._board.close()
        if self._copied:
            self._copied.cleanup()


def is_breakdown(name: str) -> bool:
    """Returns whether a metric is a part of another one, such as `ap/NAME` of one class."""
    return "/" in name


def format_metrics(values: Mapping[str, float], metrics: Mapping[str, Metric]) -> str:
    """Returns metrics in one line: `accuracy 99.72 %, loss 0.15 nats, examples 360`.

    Args:
      values: by name.
      metrics: of the task, with the scale and the unit of each.
    """
    known = {name: metrics.get(name.partition("/")[0], Metric(name)) for name in values}
    return ", ".join(f"{name} {known[name].text(value)}" for name, value in values.items())


def read_metrics(workdir: AnyPath) -> list[dict[str, Any]]:
    """Reads the metrics of a run, oldest first; empty before the first ones.

    A truncated last line, of an interrupted run, is omitted.

    Raises:
      UserError: another line is invalid JSON.
    """
    path = workdir / FILE
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    metrics = []
    for number, line in enumerate(lines, start=1):
        try:
            metrics += [json.loads(line)] if line.endswith("\n") else []
        except ValueError:
            raise UserError(f"invalid JSON in {path}:{number}; remove the line") from None
    return metrics
