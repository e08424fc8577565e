"""Tells a run's progress: to files, and to the person at the terminal."""

import logging
import sys
import time

import jax
from tqdm import tqdm

from research.common.storage import AnyPath
from research.training.metrics import MetricWriter, is_of_part

log = logging.getLogger(__name__)
_LOSS_EVERY = 0.5  # seconds between looks at the loss, each of which moves a number off the device


class TrainingLogger:
    """A progress bar where there is a terminal, lines elsewhere, and metrics in the workdir.

    Process 0 of many reports; the others stay silent.
    """

    def __init__(self, workdir: AnyPath, start: int, total: int, batch_size: float):
        speaks = jax.process_index() == 0
        self._batch_size, self._looked = batch_size, 0.0
        self._files = MetricWriter(workdir, start) if speaks else None
        self._bar = tqdm(
            total=total * batch_size,
            initial=start * batch_size,
            unit=" examples",
            unit_scale=True,
            dynamic_ncols=True,
            disable=not (speaks and sys.stderr.isatty()),
        )

    def __enter__(self) -> "TrainingLogger":
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()
        if self._files:
            self._files.close()

    def advance(self, loss: jax.Array | None) -> None:
        """One more step is begun; `loss` is that of a finished one."""
        now = time.monotonic()
        if loss is not None and now - self._looked > _LOSS_EVERY and not self._bar.disable:
            self._looked = now
            self._bar.set_postfix_str(f"loss {float(loss):.4f}", refresh=False)
        self._bar.update(self._batch_size)

    def write(self, step: int, split: str, values: dict[str, float]) -> None:
        """Metrics of a split after a step."""
        if self._files is None:
            return
        self._files.write(step, split, values)
        if self._bar.disable:
            whole = {name: value for name, value in values.items() if not is_of_part(name)}
            shown = "  ".join(f"{name} {value:.4g}" for name, value in whole.items())
            log.info("step %d  %s  %s", step, split, shown)

    def flush(self) -> None:
        """Writes what has been told; a run that is killed goes on from it."""
        if self._files:
            self._files.flush()
