"""How step time and memory scale on TPU v5e: chips, sharded parameters, the edge of memory.

make plan  # installs the TPU compiler
PYTHONPATH=.venv/libtpu .venv/bin/python -m tests.benchmarks.scaling
"""

from pathlib import Path

from research.hardware.slices import parse_slice
from research.planning.plan import Plan, plan, subject
from research.planning.table import columns, gib
from research.training.experiment import load_experiment

EXPERIMENTS = Path("experiments")
RESNET = "image_classification/imagenet_resnet50"
TRANSFORMER = "sequence_to_sequence/wmt14_transformer"
SMALL = "image_classification/cifar10_resnet"
PER_CHIP = 128
CHIPS = (4, 16, 64, 256)


def planned(experiment: str, slice_name: str, *changes: str) -> Plan:
    """Returns the plan of a changed experiment."""
    what = subject(load_experiment(EXPERIMENTS / f"{experiment}.py", changes), 1_000_000)
    return plan(what, parse_slice(slice_name))


def weak_scaling() -> None:
    """The same batch per chip on more chips, with batch norm over the batch and over each chip."""
    rows = [("ResNet-50", "norm over", "step", "kernels", "collectives", "growth")]
    for group in ("the batch", f"{PER_CHIP} examples"):
        first = 0.0
        for chips in CHIPS:
            norm = [] if group == "the batch" else [f"task.model.norm_group_size={PER_CHIP}"]
            result = planned(RESNET, f"v5e-{chips}", f"batch_size={PER_CHIP * chips}", *norm)
            first = first or result.step_seconds
            times = (result.step_seconds, result.kernel_seconds, result.collective_seconds)
            growth = f"{100 * (result.step_seconds / first - 1):.1f} %"
            rows.append((result.slice, group, *(f"{1e3 * time:.2f} ms" for time in times), growth))
            print(rows[-1], flush=True)
    print("\n".join(columns(rows)))


def sharded_state() -> None:
    """The step's arguments (state and batch), with parameters in 1 and in 16 parts."""
    whole, parts = (
        planned(TRANSFORMER, "v5e-16", f"mesh.fsdp={fsdp}").memory["arguments"] for fsdp in (1, 16)
    )
    print(f"Transformer on v5e-16: {gib(whole)} per chip; with fsdp=16 {gib(parts)}, ", end="")
    print(f"{16 * parts / whole:.3f} sixteenths")


def edge_of_memory() -> None:
    """The largest multiple of 1000 examples that fits, by bisection, and the next one."""
    low, high = 1, 64
    fits = {}
    while high - low > 1:
        middle = (low + high) // 2
        fits[middle] = planned(SMALL, "v5e-1", f"batch_size={1000 * middle}")
        low, high = (middle, high) if fits[middle].fits else (low, middle)
    for size in (low, high):
        if size in fits:
            one = fits[size]
            word = "fits" if one.fits else "is refused"
            needed, available = gib(one.needed_bytes), gib(one.hbm_bytes)
            print(f"batch of {1000 * size:,}: {word}, {needed} of {available}")


if __name__ == "__main__":
    sharded_state()
    edge_of_memory()
    weak_scaling()
