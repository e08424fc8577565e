"""Runs of the toy task."""

import dataclasses

import jax
import pytest

from research.hardware.mesh import MeshConfig
from research.training.experiment import Experiment
from research.training.optimizer import Optimizer
from tests.training.toy_task import Toy


@pytest.fixture(scope="package", autouse=True)
def quick_compilation():
    """Disables XLA optimizations: these tests spend their time on compilation."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture
def full_compilation():
    """Enables XLA optimizations, without which rounding and max-pooling depend on the mesh."""
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)


@pytest.fixture(scope="session")
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


@pytest.fixture(scope="session")
def pairs(toy):
    """Pairs of sequences in four buckets, in batches of 24, 16, 16 and 8."""
    return dataclasses.replace(
        toy,
        task=Toy(sizes=(6, 12), sides=2, examples=100),
        duration="24 steps",
        batch_size=32,
        batch_length=300,
        log_every="6 steps",
        evaluate_every="12 steps",
        checkpoint_every="8 steps",
    )


@pytest.fixture(scope="session")
def replace_optimizer(experiment):
    """Returns a function that gives the experiment another optimizer."""

    def replace(**options):
        return dataclasses.replace(experiment, optimizer=Optimizer(**options))

    return replace
