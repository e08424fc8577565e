"""Evaluates a state on a split: every example exactly once."""

from collections import defaultdict
from typing import Any

import jax
import numpy as np

from research.data.dataset import Dataset
from research.hardware.processes import heartbeat
from research.task import Scorer
from research.training.program import Program
from research.training.state import TrainState


def evaluate(
    program: Program, state: TrainState, dataset: Dataset
) -> tuple[dict[str, float], Scorer]:
    """Metrics over a dataset, and the scorer that saw it.

    Among them are `examples`, the number that was scored, and where there were any `skipped`, the
    number of the unusable and the too long.
    """
    pipeline = program.pipeline(dataset, training=False)
    scorer = program.task.scorer()
    sums: dict[str, float] = defaultdict(float)
    counts: dict[str, float] = defaultdict(float)
    counted: list[tuple[int, int]] = []  # scored and skipped examples of each batch

    def collect(fetched: Any) -> tuple[int, int]:
        totals, predictions, targets = jax.device_get(fetched)
        for name, total in totals.items():
            sums[name] += float(total.total)
            counts[name] += float(total.count)
        real, present = targets.pop("mask") > 0, targets["index"] >= 0
        scorer.update(_select(targets, real), _select(predictions, real))
        return int(real.sum()), int(present.sum() - real.sum())

    waiting: list[Any] = []
    for batch in pipeline.batches(0, pipeline.sampler.batches_per_epoch):
        heartbeat()
        with jax.transfer_guard("disallow"):
            waiting.append(program.evaluate_step(state.inference_params, state.variables, batch))
        # Fetching the batch before lets the device work meanwhile on this one.
        if len(waiting) > min(program.steps_ahead, 1):
            counted.append(collect(waiting.pop(0)))
    counted += [collect(last) for last in waiting]
    examples, skipped = (sum(part) for part in zip(*counted, strict=True))
    means = {name: sums[name] / max(counts[name], 1) for name in sums}
    results = {**means, **scorer.result(dataset), "examples": examples}
    if skipped or pipeline.sampler.num_dropped:
        results["skipped"] = skipped + pipeline.sampler.num_dropped
    return results, scorer


def _select(arrays: dict[str, np.ndarray], rows: np.ndarray) -> dict[str, np.ndarray]:
    return {name: array[rows] for name, array in arrays.items()}
