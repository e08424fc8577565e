import pytest

from research.hardware.mesh import MeshConfig
from research.tasks.object_detection.data import DigitScenes
from research.training.experiment import Experiment
from research.training.loop import Trainer
from research.training.optimizer import Optimizer
from tests.tasks.object_detection.overfitting import SCENES, TASK


@pytest.fixture(scope="package")
def run(tmp_path_factory):
    """A run that is overfitted to its test scenes."""
    experiment = Experiment(
        task=TASK,
        duration="100 steps",
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
        return Trainer(experiment, tmp_path_factory.mktemp("runs") / "scenes").train()[0]
