"""Metrics as JSON lines, which every tool reads, and as TensorBoard events."""

import json
from pathlib import Path
from typing import Any

from tensorboardX import SummaryWriter

from research.errors import UserError
from research.files import write_whole

FILE = "metrics.jsonl"


class MetricWriter:
    """Appends to `metrics.jsonl` and to TensorBoard's event files in a workdir.

    A resumed run continues after `step`: what an interrupted run wrote later is removed, so the
    file reads as if there had been no interruption.
    """

    def __init__(self, workdir: Path, step: int):
        kept = [line for line in read_metrics(workdir) if line["step"] <= step]
        self._path = workdir / FILE
        write_whole(self._path, "".join(json.dumps(line) + "\n" for line in kept))
        self._board = SummaryWriter(
            str(workdir / "tensorboard"), purge_step=step + 1 if step else None
        )

    def write(self, step: int, split: str, values: dict[str, float]) -> None:
        """Writes one line: the values of a split after a step."""
        with self._path.open("a") as file:
            file.write(json.dumps({"step": step, "split": split, **values}) + "\n")
        for name, value in values.items():
            self._board.add_scalar(f"{split}/{name}", value, step)

    def close(self) -> None:
        """Flushes TensorBoard's events."""
        self._board.close()


def is_of_part(name: str) -> bool:
    """Whether a metric is of a part of what another one is of, as `ap/NAME` of a class is."""
    return "/" in name


def read_metrics(workdir: Path) -> list[dict[str, Any]]:
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
