"""The engine depends on the contract in `research/task.py` alone, not on any particular task."""

import dataclasses

import jax
import numpy as np
import pytest

from research.hardware.mesh import MeshConfig
from research.training.evaluation import evaluate
from research.training.loop import Trainer
from research.training.metrics import read_metrics
from research.training.program import Program
from tests.training.toy_task import SIDES, Toy


def test_task_with_variable_lengths_and_host_metric_trains(toy, tmp_path):
    _, trained = Trainer(toy, tmp_path).train()
    assert trained
    lines = [line for line in read_metrics(tmp_path) if line["split"] == "validation"]
    assert lines[-1]["median_error"] < 0.1 * lines[0]["loss"] + 0.1
    assert lines[-1]["loss"] < 0.05
    # One compilation of a step for each bucket, and none after every bucket has occurred.
    compilations = [
        line["compilations"] for line in read_metrics(tmp_path) if line["split"] == "train"
    ]
    assert len(set(compilations[-9:])) == 1


@pytest.mark.parametrize("mesh", [{"devices": 1}, {}, {"fsdp": 2, "tensor": 2}])
@pytest.mark.parametrize("examples", [8, 21, 50])
def test_evaluation_counts_every_example_once(toy, mesh, examples):
    check_evaluation(dataclasses.replace(toy, task=Toy(examples=examples), mesh=MeshConfig(**mesh)))


@pytest.mark.parametrize("mesh", [{"devices": 1}, {"fsdp": 4}])
@pytest.mark.parametrize("batch_length", [0, 1, 300])
def test_evaluation_counts_every_pair_once_for_any_batch_length(pairs, mesh, batch_length):
    """Including batch lengths that hold fewer examples than there are devices."""
    check_evaluation(dataclasses.replace(pairs, mesh=MeshConfig(**mesh), batch_length=batch_length))


def check_evaluation(experiment):
    """Compares `evaluate` with a loop over single examples in NumPy."""
    program, task, examples = Program(experiment), experiment.task, experiment.task.examples
    dataset = task.dataset("test")
    results, scorer = evaluate(program, program.initialize().inference, dataset)
    assert results["examples"] == examples
    assert sorted(scorer.indices) == list(range(examples))
    params = jax.device_get(program.initialize().params)
    errors = []
    for i in range(examples):
        one = dataset.example(i, np.random.default_rng(0))
        total = sum(one[side].sum(0) for side in SIDES if side in one)
        value = one["weight"] * (total @ params["kernel"] @ params["out"])
        errors.append((value - one["target"]) ** 2)
    np.testing.assert_allclose(results["loss"], np.mean(errors), rtol=1e-5)


def test_predictor_of_toy_task(toy):
    """The abstract methods of `Predictor` suffice for a task without files or pictures."""
    task = toy.task
    params, variables = task.init(jax.random.key(0))
    predictor = task.predictor()
    batch = predictor.preprocess("0.5 -1").batch(np.arange(1), (0,), None)
    predictions = {name: array[0] for name, array in task.predict(params, variables, batch).items()}
    result = predictor.postprocess([predictions])
    expected = float(np.array([0.5, -1]) @ params["kernel"] @ params["out"])
    assert result == {"value": pytest.approx(expected, rel=1e-5), "positive": expected > 0}
    assert predictor.to_rows(result) == [result]
    assert predictor.visualize("0.5 -1", result) is None
