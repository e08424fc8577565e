import dataclasses

import jax
import numpy as np
import pytest

from research.hardware.mesh import MeshConfig
from research.reporting.metrics import read_metrics
from research.training.evaluation import evaluate
from research.training.experiment import Experiment
from research.training.loop import Trainer
from research.training.optimizer import Optimizer
from research.training.program import Program
from tests.training.toy_task import Toy


@pytest.fixture
def toy():
    return Experiment(
        task=Toy(),
        duration="40 epochs",
        batch_size=8,
        optimizer=Optimizer(name="adam", learning_rate=0.05),
        mesh=MeshConfig(devices=1),
        log_every="2 epochs",
        evaluate_every="20 epochs",
        checkpoint_every="20 epochs",
    )


def test_an_unlike_task_learns_with_the_same_engine(toy, tmp_path, monkeypatch):
    monkeypatch.setattr("research.training.run.to_config_dict", lambda e: _Plain(e))
    _, trained = Trainer(toy, tmp_path).train()
    assert trained
    lines = [line for line in read_metrics(tmp_path) if line["split"] == "validation"]
    assert lines[-1]["median_error"] < 0.1 * lines[0]["loss"] + 0.1
    assert lines[-1]["loss"] < 0.05
    # One compilation of a step for each bucket, and none after all were met.
    compilations = [
        line["compilations"] for line in read_metrics(tmp_path) if line["split"] == "train"
    ]
    assert len(set(compilations[-9:])) == 1


@pytest.mark.parametrize("mesh", [{"devices": 1}, {}, {"fsdp": 2, "tensor": 2}])
@pytest.mark.parametrize("examples", [8, 21, 50])
def test_evaluation_counts_every_example_once(toy, mesh, examples):
    task = Toy(examples=examples)
    toy = dataclasses.replace(toy, task=task, mesh=MeshConfig(**mesh))
    program = Program(toy)
    dataset = task.dataset("test")
    results, scorer = evaluate(program, program.initialize(), dataset)
    assert results["examples"] == examples
    assert sorted(scorer.indices) == list(range(examples))
    params = jax.device_get(program.initialize().params)
    errors = []
    for i in range(examples):
        one = dataset.example(i, np.random.default_rng(0))
        value = one["weight"] * (one["frames"].sum(0) @ params["kernel"] @ params["out"])
        errors.append((value - one["target"]) ** 2)
    np.testing.assert_allclose(results["loss"], np.mean(errors), rtol=1e-5)


class _Plain:
    """The toy is no task of the package, so its config has no name there."""

    def __init__(self, experiment):
        self.experiment = experiment

    def to_dict(self):
        return {"toy": repr(self.experiment)}
