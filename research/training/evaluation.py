"""Evaluates a state on a split, every example exactly once."""

from collections import defaultdict
from typing import Any

import jax
import numpy as np

from research.common.processes import heartbeat
from research.common.progress import activity, progress
from research.data.dataset import Dataset
from research.data.splits import warn_once
from research.task import Scorer, Task
from research.training.input import input_pipeline
from research.training.program import Program
from research.training.state import InferenceState

_MIN_EXAMPLES = 50  # with fewer, the standard error of an accuracy of 50 % exceeds 7 points


def evaluate(
    program: Program, state: InferenceState, dataset: Dataset
) -> tuple[dict[str, float], Scorer]:
    """Computes the metrics over a dataset, and logs the notes of the scorer.

    Returns:
      The metrics, and the task's scorer. `examples` is the number of scored examples; `skipped`, if
      there are any, the number of unusable and too long ones.
    """
    pipeline = input_pipeline(program, dataset, training=False)
    scorer = program.task.scorer()
    sums: dict[str, float] = defaultdict(float)
    counts: dict[str, float] = defaultdict(float)
    counted: list[tuple[int, int]] = []  # scored and skipped examples of each batch

    def collect(fetched: Any) -> tuple[int, int]:
        averages, predictions, targets = jax.device_get(fetched)
        for name, average in averages.items():
            sums[name] += float(average.total)
            counts[name] += float(average.count)
        real, present = targets.pop("mask") > 0, targets["index"] >= 0
        scorer.update(_select(targets, real), _select(predictions, real))
        return int(real.sum()), int(present.sum() - real.sum())

    in_flight: list[Any] = []
    count = pipeline.sampler.batches_per_epoch
    for batch in progress(pipeline.batches(0, count), "evaluating", count):
        heartbeat()
        with jax.transfer_guard("disallow"):
            in_flight.append(program.evaluate_step(state, batch))
        # While the results of one batch are fetched, the device computes the next.
        if len(in_flight) > min(program.steps_ahead, 1):
            counted.append(collect(in_flight.pop(0)))
    counted += [collect(last) for last in in_flight]
    examples, skipped = (sum(part) for part in zip(*counted, strict=True))
    means = {name: sums[name] / max(counts[name], 1) for name in sums}
    with activity("computing the metrics"):
        scores = scorer.result(dataset)
    # The metrics that count come first.
    results = {**scores, **{name: means[name] for name in means if name not in scores}}
    results["examples"] = examples
    if skipped or pipeline.sampler.num_dropped:
        results["skipped"] = skipped + pipeline.sampler.num_dropped
    for note in scorer.notes() if jax.process_index() == 0 else ():
        warn_once(note)
    return results, scorer


def _select(arrays: dict[str, np.ndarray], rows: np.ndarray) -> dict[str, np.ndarray]:
    return {name: array[rows] for name, array in arrays.items()}


def check_size(task: Task, split: str, dataset: Dataset) -> list[str]:
    """Warns once of a held-out split with too few examples for precise scores.

    Args:
      task: the task.
      split: "train", "validation" or "test".
      dataset: its examples, `task.dataset(split)`.

    Returns:
      the warning, as a note for the readers of the scores; empty for enough examples.
    """
    opened, count = task.opened_split(split), len(dataset)
    if opened == "train" or count >= _MIN_EXAMPLES:
        return []
    remedy, key = f"provide a larger {opened} split", f"{opened}_fraction"
    if hasattr(getattr(task, "source", None), key):
        remedy = f"raise config.task.source.{key}, or {remedy}"
    note = f"only {count} {opened} examples: scores of so few are imprecise; {remedy}"
    if jax.process_index() == 0:
        warn_once(note)
    return [note]
