"""Metrics as JSON lines, which every tool reads, and as TensorBoard events."""

import json
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tensorboardX import SummaryWriter

from research.common.errors import UserError
from research.common.files import write_whole
from research.common.storage import AnyPath, is_in_bucket

FILE = "metrics.jsonl"
_EVERY = 10.0  # seconds between writings; a bucket takes one a second of a file


class MetricWriter:
    """Writes `metrics.jsonl` and TensorBoard's event files in a workdir.

    A resumed run continues after `step`: what an interrupted run wrote later is removed, so the
    file reads as if there had been no interruption.

    As nothing can be appended to what lies in a bucket, the file is written anew, some seconds
    after a line has come, or by `flush`; so are TensorBoard's there.
    """

    def __init__(self, workdir: AnyPath, step: int):
        kept = [line for line in read_metrics(workdir) if line["step"] <= step]
        self._path = workdir / FILE
        self._lines = [json.dumps(line) + "\n" for line in kept]
        self._events = workdir / "tensorboard"
        # TensorBoardX can write to a bucket, but after one failure loses all, without a word.
        self._copied = TemporaryDirectory() if is_in_bucket(workdir) else None
        folder = self._copied.name if self._copied else str(self._events)
        self._board = SummaryWriter(folder, purge_step=step + 1 if step else None)
        self.flush()

    def write(self, step: int, split: str, values: dict[str, float]) -> None:
        """One line more: the values of a split after a step."""
        self._lines.append(json.dumps({"step": step, "split": split, **values}) + "\n")
        for name, value in values.items():
            self._board.add_scalar(f"{split}/{name}", value, step)
        if time.monotonic() - self._written > _EVERY:
            self.flush()

    def flush(self) -> None:
        """Writes all lines and events that have come."""
        write_whole(self._path, "".join(self._lines))
        self._board.flush()
        if self._copied:
            for file in Path(self._copied.name).iterdir():
                write_whole(self._events / file.name, file.read_bytes())
        self._written = time.monotonic()

    def close(self) -> None:
        """Writes the last lines and events."""
        self.flush()
        self._board.close()
        if self._copied:
            self._copied.cleanup()


def is_of_part(name: str) -> bool:
    """Whether a metric is of a part of what another one is of, as `ap/NAME` of a class is."""
    return "/" in name


def read_metrics(workdir: AnyPath) -> list[dict[str, Any]]:
    """The lines of a run, oldest first; none where it has not begun.

    A last line that an interruption cut off is left out.

    Raises:
      UserError: another line is not JSON.
    """
    path = workdir / FILE
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    metrics = []
    for number, line in enumerate(lines, start=1):
        try:
            metrics += [json.loads(line)] if line.endswith("\n") else []
        except ValueError:
            raise UserError(f"{path}, line {number} is not JSON; remove the line") from None
    return metrics
