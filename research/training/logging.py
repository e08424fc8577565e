"""Logging of metrics to files and of progress to the terminal."""

import logging
import time
from collections.abc import Mapping

import jax
from tqdm import tqdm

from research.common.progress import on_terminal
from research.common.storage import AnyPath
from research.data.sampler import BatchSampler
from research.task import Metric
from research.training.metrics import MetricWriter, format_metrics, is_breakdown

log = logging.getLogger(__name__)
_LOSS_PERIOD = 0.5  # seconds between updates of the displayed loss, each a transfer to the host


class TrainingLogger:
    """Writes metrics to the workdir, and displays a progress bar and log lines.

    Only process 0 logs. On a terminal the progress bar takes the place of the training metrics.

    Args:
      workdir: the run's folder.
      start: the number of steps before this start.
      total: the number of steps of the run.
      sampler: of the training data.
      first_batch: the number of the first batch, counted over all epochs.
      metrics: of the task, for log lines; the files contain the values as they are.
    """

    def __init__(
        self,
        workdir: AnyPath,
        start: int,
        total: int,
        sampler: BatchSampler,
        first_batch: int,
        metrics: Mapping[str, Metric],
    ):
        is_main = jax.process_index() == 0
        self._batch_size, self._epoch_length = sampler.mean_batch_size, sampler.batches_per_epoch
        self._batches, self._last_batch = first_batch, first_batch + total - start
        self._metrics, self._updated = metrics, 0.0
        self._files = MetricWriter(workdir, start) if is_main else None
        if is_main and start:
            log.info("resuming at step %d of %d", start, total)
        self._bar = tqdm(
            total=total * self._batch_size,
            initial=start * self._batch_size,
            unit=" examples",
            unit_scale=True,
            dynamic_ncols=True,
            disable=not on_terminal(),
        )

    def __enter__(self) -> "TrainingLogger":
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()
        if self._files:
            self._files.close()

    def advance(self, loss: jax.Array | None) -> None:
        """Advances the progress bar by a dispatched step; `loss` is that of a finished step."""
        self._batches += 1
        now = time.monotonic()
        if loss is not None and now - self._updated > _LOSS_PERIOD and not self._bar.disable:
            self._updated = now
            epoch, epochs = self._epoch(self._batches), self._epoch(self._last_batch)
            text = f"epoch {epoch}/{epochs}, loss {float(loss):.4f}"
            self._bar.set_postfix_str(text, refresh=False)
        self._bar.update(self._batch_size)

    def write(self, step: int, split: str, values: dict[str, float]) -> None:
        """Writes the metrics of a split after a step."""
        if self._files is None:
            return
        self._files.write(step, split, values)
        if split != "train" or self._bar.disable:
            whole = {name: value for name, value in values.items() if not is_breakdown(name)}
            log.info("step %d  %s  %s", step, split, format_metrics(whole, self._metrics))

    def flush(self) -> None:
        """Writes all metrics so far to the workdir."""
        if self._files:
            self._files.flush()

    def _epoch(self, batches: int) -> int:
        """Returns the epoch of the last of a number of batches, from 1."""
        return -(-batches // self._epoch_length)
