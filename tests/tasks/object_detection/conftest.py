import pytest

from research.hardware.mesh import MeshConfig
from research.tasks.object_detection.data import DigitScenes
from research.training.experiment import Experiment
from research.training.loop import Trainer
from research.training.optimizer import Optimizer
from tests.tasks.object_detection.overfitting import SCENES, TASK


@pytest.fixture(scope="package")
def run(tmp_path_factory):
    """A run of one step."""
    return trained_on_test_scenes(tmp_path_factory.mktemp("runs") / "scenes", "1 step")


@pytest.fixture(scope="package")
def overfitted(tmp_path_factory):
    """A run that detects the objects of its test scenes."""
    return trained_on_test_scenes(tmp_path_factory.mktemp("runs") / "overfitted", "100 steps")


def trained_on_test_scenes(workdir, duration):
    experiment = Experiment(
        task=TASK,
        duration=duration,
        batch_size=SCENES,
        optimizer=Optimizer(learning_rate=1e-2, schedule="constant"),
        mesh=MeshConfig(devices=1),
        log_every="50 steps",
        evaluate_every="0 steps",
        checkpoint_every="0 steps",
    )
    original = DigitScenes.open
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DigitScenes, "open", lambda self, split: original(self, "test"))
        return Trainer(experiment, workdir).train()[0]
