"""The engine trains an `flax.nnx` module through the same contract as the Linen models."""

import jax
import numpy as np
import pytest

from research.hardware.mesh import MeshConfig
from research.training.evaluation import evaluate
from research.training.experiment import Experiment
from research.training.loop import Trainer
from research.training.optimizer import Optimizer
from tests.tasks.nnx_task import NNXDigits


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of 60 steps on two devices, and its state before the first step."""
    experiment = Experiment(
        task=NNXDigits(),
        duration="60 steps",
        batch_size=64,
        optimizer=Optimizer(learning_rate=1e-2),
        mesh=MeshConfig(devices=2),
        evaluate_every="0 steps",
    )
    run, _ = Trainer(experiment, tmp_path_factory.mktemp("nnx") / "run").train()
    return run, run.program.initialize()


@pytest.mark.slow
def test_nnx_module_learns_digits(trained):
    run, _ = trained
    results, _ = evaluate(run.program, run.state, run.program.task.dataset("test"))
    assert results["accuracy"] > 0.9
    assert results["examples"] == 360


@pytest.mark.slow
def test_running_averages_are_updated_in_training_and_kept_in_evaluation(trained):
    run, initial = trained
    task, state = run.program.task, jax.device_get(run.state)
    changed = jax.tree.map(
        lambda a, b: not np.array_equal(a, b), initial.variables, state.variables
    )
    assert all(jax.tree.leaves(changed))
    batch = task.dataset("test").batch(np.arange(4), (0,), None)
    _, kept = jax.jit(task.loss, static_argnums=4)(
        state.params, state.variables, batch, jax.random.key(0), False
    )
    jax.tree.map(np.testing.assert_array_equal, kept, state.variables)


@pytest.mark.slow
def test_state_is_a_tree_of_arrays_with_the_names_of_the_module(trained):
    run, _ = trained
    assert set(run.state.params) == {"hidden", "norm", "output"}
    assert set(run.state.params["hidden"]) == {"kernel", "bias"}
    assert set(run.state.variables["norm"]) == {"mean", "var"}
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(run.state))
