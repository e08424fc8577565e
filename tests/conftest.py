"""Eight emulated CPU devices for every test, and the fixtures that most tests share."""

import dataclasses
import logging
import os

# JAX reads these when it is imported.
os.environ["JAX_PLATFORMS"] = "cpu"
# Implicit promotion between dtypes is an error, since it can silently cost precision or memory.
os.environ["JAX_NUMPY_DTYPE_PROMOTION"] = "strict"
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
os.environ.pop("TFDS_DATA_DIR", None)

import pytest
from absl import flags

from research.hardware.mesh import MeshConfig
from research.tasks.image_classification.data import Digits
from research.tasks.image_classification.models import MLP
from research.tasks.image_classification.task import ImageClassification
from research.training.experiment import Experiment
from research.training.optimizer import Optimizer


@pytest.fixture(scope="session", autouse=True)
def compilation_cache(tmp_path_factory):
    """A compilation cache that all test workers share, since tests compile the same programs."""
    import jax

    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:  # its parent is the folder of the session
        folder = folder.parent
    jax.config.update("jax_compilation_cache_dir", str(folder / "xla"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.02)
    return folder / "xla"


@pytest.fixture
def in_process(monkeypatch):
    """Lets a test run commands in this process; restores what they change in it."""
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "set")  # that of the tests stays
    root, ours = logging.getLogger(), logging.getLogger("research")
    before = root.handlers[:], ours.handlers[:], ours.propagate, ours.level
    defined = set(flags.FLAGS)
    yield
    root.handlers[:], ours.handlers[:], ours.propagate, ours.level = before
    for name in set(flags.FLAGS) - defined:
        if flags.FLAGS.find_module_defining_flag(name).startswith("research."):
            delattr(flags.FLAGS, name)


@pytest.fixture
def standard_promotion():
    """Allows implicit promotion: Flax's BatchNorm multiplies bfloat16 by float32."""
    import jax

    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture(scope="session")
def experiment() -> Experiment:
    """A small MLP on scikit-learn's digits, on one device: 24 steps take a second."""
    return Experiment(
        task=ImageClassification(source=Digits(), model=MLP(widths=(32,))),
        duration="24 steps",
        batch_size=64,
        optimizer=Optimizer(learning_rate=1e-2),
        mesh=MeshConfig(devices=1),
        log_every="6 steps",
        evaluate_every="12 steps",
        checkpoint_every="8 steps",
    )


@pytest.fixture(scope="session")
def with_model(experiment):
    """Returns a function that replaces the model and other fields of the task."""

    def change(model, **task):
        return dataclasses.replace(
            experiment, task=dataclasses.replace(experiment.task, model=model, **task)
        )

    return change
