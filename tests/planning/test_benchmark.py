import dataclasses
import json

import pytest

from research import benchmark as command
from research.planning import benchmark as measure
from research.tasks.image_classification.models import MLP


@pytest.mark.slow
def test_a_benchmark_measures_each_part(with_model, monkeypatch):
    monkeypatch.setattr(measure, "_CEILING_SECONDS", 0.01)
    monkeypatch.setattr(measure, "_COPY_BYTES", 2**20)
    experiment = with_model(MLP(widths=(32,)))
    found = measure.benchmark(experiment, steps=4)
    weights = (64 * 32, 32 * 10)
    # Forward, gradients of weights, and of the inputs of all layers but the first.
    assert found.flops == experiment.batch_size * (6 * sum(weights) - 2 * weights[0])
    assert 0 < found.step.lower <= found.step.median <= found.step.upper
    assert 0 <= found.wait_fraction < 1
    assert found.training.median >= 0 < found.input.median
    assert found.peak_flops_per_second == 0  # of a CPU it is not known
    values = json.loads(json.dumps(found.to_json()))
    assert values["examples_per_second"] == found.batch_size / found.training.median
    assert "step alone" in command.format_benchmark(found)
    listed = dataclasses.replace(found, peak_flops_per_second=1e12)
    assert "MFU" in command.format_benchmark(listed)


def test_quartiles_are_those_of_the_times():
    assert measure.Spread.of([5.0]) == measure.Spread(5.0, 5.0, 5.0)
    assert measure.Spread.of([1.0, 2.0, 3.0]) == measure.Spread(2.0, 1.0, 3.0)
