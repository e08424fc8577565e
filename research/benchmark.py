"""Measures the training step and the input pipeline of an experiment on the devices at hand.

python -m research.benchmark --config=experiments/image_classification/digits_cnn.py
"""

import json
from pathlib import Path

from absl import flags

from research.common import cli
from research.common.errors import UserError
from research.planning.benchmark import Benchmark, Spread, benchmark
from research.planning.table import columns
from research.training.experiment import load_experiment

FLAGS = flags.FLAGS


def define_flags() -> None:
    """Defines the flags of this command, when called: other modules import this one."""
    flags.DEFINE_string("config", None, "Experiment file.")
    cli.define_config_changes()
    flags.DEFINE_integer("steps", 20, "Number of measured steps.")
    flags.DEFINE_bool("json", False, "Print one line of JSON.")


def main(_: list[str]) -> None:
    """Prints the measurements."""
    if FLAGS.steps < 2:
        raise UserError(f"invalid flag --steps={FLAGS.steps}: expected at least 2")
    result = benchmark(load_experiment(Path(FLAGS.config), cli.config_changes()), FLAGS.steps)
    print(json.dumps(result.to_json()) if FLAGS.json else format_benchmark(result))


def format_benchmark(result: Benchmark) -> str:
    """Returns the measurements as lines of text."""
    rate = result.flops / result.step.median
    ceiling = result.product_flops_per_second
    rows = [
        ("hardware", result.hardware),
        ("compilation", f"{result.compile_seconds:.1f} s"),
        ("step alone", _milliseconds(result.step)),
        ("input alone", _milliseconds(result.input)),
        ("step and input", _milliseconds(result.training)),
        ("examples/s", f"{result.batch_size / result.training.median:,.1f}"),
        ("waiting for input", f"{100 * result.wait_fraction:.1f} % of the time"),
        ("products", f"{rate / 1e9:,.1f} GFLOP/s, {100 * rate / ceiling:.0f} % of the ceiling"),
        ("ceiling of products", f"{ceiling / 1e9:,.1f} GFLOP/s, measured"),
        ("ceiling of copies", f"{result.copy_bytes_per_second / 1e9:,.1f} GB/s, measured"),
    ]
    if result.peak_flops_per_second:
        rows.append(("MFU", f"{100 * rate / result.peak_flops_per_second:.1f} %"))
    return "\n".join(columns(rows))


def _milliseconds(spread: Spread) -> str:
    low, high = 1e3 * spread.lower, 1e3 * spread.upper
    return f"{1e3 * spread.median:.2f} ms, half of them {low:.2f} to {high:.2f} ms"


def run_command() -> None:
    """Runs this command with the arguments of the command line."""
    define_flags()
    cli.run(main, required=("config",))


if __name__ == "__main__":
    run_command()
