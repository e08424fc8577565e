"""Restores the complete training state of a run; `open_run` restores the inference state."""

from research.common.config import from_config_dict
from research.training.checkpoint import Checkpoints
from research.training.experiment import Experiment
from research.training.program import Program
from research.training.run import CHECKPOINTS, saved_config


def saved_state(workdir, experiment=None, program=None):
    """Returns the state of the newest readable checkpoint, on the mesh of `experiment`.

    A run with frozen parameters needs its own program, which knows them.
    """
    experiment = experiment or from_config_dict(Experiment, saved_config(workdir))
    program = program or Program(experiment)
    checkpoints = Checkpoints(workdir / CHECKPOINTS, program.mesh)
    try:
        return checkpoints.restore(program.state_shape, program.shardings).state
    finally:
        checkpoints.close()
