"""Evaluates a state on a split: every example exactly once."""

from collections import defaultdict
from typing import Any

import jax
import numpy as np

from research.data.dataset import Dataset
from research.task import Scorer
from research.training.program import Program
from research.training.state import TrainState


def evaluate(
    program: Program, state: TrainState, dataset: Dataset
) -> tuple[dict[str, float], Scorer]:
    """Metrics over a dataset, with `examples`, the number that was scored; and the scorer."""
    pipeline = program.pipeline(dataset, training=False)
    scorer = program.task.scorer()
    sums: dict[str, float] = defaultdict(float)
    counts: dict[str, float] = defaultdict(float)
    examples = 0

    def collect(fetched: Any) -> int:
        totals, predictions, targets = jax.device_get(fetched)
        for name, total in totals.items():
            sums[name] += float(total.sum)
            counts[name] += float(total.count)
        real = targets.pop("mask") > 0
        scorer.update(_select(targets, real), _select(predictions, real))
        return int(real.sum())

    waiting: list[Any] = []
    for batch in pipeline.batches(0, pipeline.plan.batches_per_epoch):
        with jax.transfer_guard("disallow"):
            waiting.append(program.evaluate_step(state.inference_params, state.variables, batch))
        # Fetching the batch before lets the device work meanwhile on this one.
        if len(waiting) > min(program.steps_ahead, 1):
            examples += collect(waiting.pop(0))
    examples += sum(collect(last) for last in waiting)
    means = {name: sums[name] / max(counts[name], 1) for name in sums}
    return {**means, **scorer.result(), "examples": examples}, scorer


def _select(arrays: dict[str, np.ndarray], rows: np.ndarray) -> dict[str, np.ndarray]:
    return {name: array[rows] for name, array in arrays.items()}
