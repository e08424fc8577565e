"""Workdirs as training and evaluation write them."""

import json

import pytest

from research.reporting.figures import Figure
from research.reporting.html import element
from research.reporting.runs import SUMMARY, save_evaluation
from research.training.metrics import MetricWriter

SUMMARY_OF_A_RUN = {
    "command": "python -m research.train '--workdir=runs/my run'",
    "finished": "2026-01-02T03:04:05+00:00",
    "hardware": "1 x abacus",
    "parameters": 4321,
    "environment": {"python": "3.13.0", "jax": "0.12.0", "commit": "0123456789" * 4},
    "peak_host_bytes": 3 * 2**29,
    "peak_device_bytes": 2**30,
    "mfu": 0.345,
    "seconds": 12.34,
    "compile_seconds": 5.0,
    "total_seconds": 24.68,
}


@pytest.fixture
def write_metrics():
    """Returns a function that writes the metrics of some steps to a workdir."""

    def write(workdir, resume_at, steps):
        writer = MetricWriter(workdir, resume_at)
        for step in steps:
            writer.write(step, "train", {"loss": 1 / step, "seconds": 1.0})
            writer.write(step, "validation", {"loss": 2 / step, "accuracy": 0.5})
        writer.close()

    return write


@pytest.fixture
def make_run(tmp_path, write_metrics):
    """Returns a function that writes a workdir."""

    def make(name, scores=None, notes=(), figures=("Dots",), task="ImageClassification", **config):
        workdir = tmp_path / name
        workdir.mkdir(parents=True)
        model = {"type": "MLP", "widths": [8]}
        config = {"task": {"type": task, "model": model}, "seed": 0, **config}
        (workdir / "config.json").write_text(json.dumps(config))
        (workdir / SUMMARY).write_text(json.dumps(SUMMARY_OF_A_RUN))
        write_metrics(workdir, 0, [10, 20])
        record = {"metrics": scores or {"loss": 0.25, "accuracy": 0.5}, "notes": list(notes)}
        drawn = [
            Figure(title, element("p", f"{title} of {name}"), "<caption>") for title in figures
        ]
        save_evaluation(workdir, "test", record | {"step": 20}, drawn)
        return workdir

    return make
