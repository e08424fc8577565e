"""Compares predicted step times with published ones.

    make plan  # installs the TPU compiler
    PYTHONPATH=.venv/libtpu .venv/bin/python -m tests.benchmarks.receipts

The published times contain input and, where noted, evaluation; the code that they were measured
with is not ours. A ratio above 1 is pessimistic.
"""

from dataclasses import dataclass
from pathlib import Path

from research.hardware.slices import parse_slice
from research.planning.plan import plan, subject
from research.planning.table import columns
from research.training.experiment import load_experiment

EXPERIMENT = Path("experiments/image_classification/imagenet_resnet50.py")
VIT = ("task.model.type=ViT", "optimizer.name=adamw", "optimizer.learning_rate=1e-3")


@dataclass(frozen=True)
class Receipt:
    """A published step time."""

    what: str
    slice: str
    batch_size: int
    seconds: float
    changes: tuple[str, ...] = ()


RECEIPTS = (
    Receipt("ResNet-50, MLPerf training v0.7", "v3-32", 32 * 128, 0.1256),
    Receipt("ResNet-50, flax/examples/imagenet, with evaluation", "v3-8", 8 * 128, 0.1266),
    Receipt("ResNet-50, MLPerf training v0.7, with evaluation", "v4-128", 64 * 128, 0.0389),
    Receipt("ViT-S/16, big_vision, 6.5 h with evaluation", "v3-8", 1024, 0.208, VIT),
)


def main() -> None:
    """Prints a row for each published time."""
    rows = [("what", "slice", "published", "predicted", "ratio")]
    for one in RECEIPTS:
        changes = [f"batch_size={one.batch_size}", *one.changes]
        what = subject(load_experiment(EXPERIMENT, changes), examples=1_271_167)
        predicted = plan(what, parse_slice(one.slice)).step_seconds
        times = (f"{1e3 * one.seconds:.1f} ms", f"{1e3 * predicted:.1f} ms")
        rows.append((one.what, one.slice, *times, f"{predicted / one.seconds:.2f}"))
        print(rows[-1], flush=True)
    print("\n".join(columns(rows)))


if __name__ == "__main__":
    main()
