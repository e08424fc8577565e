"""A run on the disk: its workdir, its config, and the state it left."""

import dataclasses
import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from research.config import differences, from_config_dict, save_json, to_config_dict
from research.errors import ConfigError, UserError
from research.hardware.mesh import MeshConfig, batch_shards
from research.training.checkpoint import Checkpoints
from research.training.experiment import Experiment
from research.training.program import Program
from research.training.state import TrainState

log = logging.getLogger(__name__)
CHECKPOINTS = "checkpoints"
CONFIG = "config.json"


@dataclass(frozen=True)
class Run:
    """A trained run, opened to evaluate it or to predict with it."""

    workdir: Path
    program: Program
    state: TrainState
    progress: dict[str, Any]


def resolve(experiment: Experiment) -> Experiment:
    """The experiment with what only its data know written into its task."""
    try:
        return dataclasses.replace(experiment, task=experiment.task.resolve())
    except ConfigError as error:
        raise error.within("task") from None


def claim(workdir: Path, experiment: Experiment, allow_change: bool) -> None:
    """Writes the config into a workdir, or checks that the workdir already belongs to it.

    Raises:
      UserError: the workdir belongs to another config, whose differences are named.
    """
    config = json.loads(json.dumps(to_config_dict(experiment).to_dict()))
    path = workdir / CONFIG
    changes = differences(_read_config(workdir), config) if path.exists() else []
    # Where a run is computed may change at any time; what is computed may not.
    refused = [change for change in changes if not change.startswith("mesh.")]
    if refused and not allow_change:
        raise UserError(
            f"{workdir} belongs to another config ({'; '.join(refused)}); "
            "choose another --workdir, or continue with --allow_config_change"
        )
    for change in changes:
        log.warning("config changed: %s", change)
    if changes or not path.exists():
        workdir.mkdir(parents=True, exist_ok=True)
        save_json(path, config)


def saved_config(workdir: Path) -> dict[str, Any]:
    """The resolved config of a run, as plain values.

    Raises:
      UserError: there is no run in the workdir.
    """
    if not (workdir / CONFIG).exists():
        raise UserError(
            f"{workdir} holds no run; `python -m research.train --workdir=...` makes one"
        )
    return _read_config(workdir)


def open_run(workdir: Path) -> Run:
    """The run in a workdir, at its newest readable checkpoint, on the devices that are here.

    Raises:
      UserError: there is no run, or it has no readable checkpoint.
    """
    program = Program(_fitted(from_config_dict(Experiment, saved_config(workdir))))
    checkpoints = Checkpoints(workdir / CHECKPOINTS, program.mesh)
    saved = checkpoints.restore(program.state_shape, program.shardings)
    checkpoints.close()
    if saved is None:
        raise UserError(f"{workdir} has no readable checkpoint yet; train it first")
    return Run(workdir, program, saved.state, saved.progress)


def _fitted(experiment: Experiment) -> Experiment:
    """The experiment for the devices that are here, which need not be those it was trained on."""
    mesh = experiment.mesh
    try:
        shards = batch_shards(mesh.build())
    except ConfigError:
        mesh = MeshConfig()
        shards = batch_shards(mesh.build())
        log.warning("the run's mesh does not fit the devices here; copying the parameters to each")
    size = -(-experiment.batch_size // shards) * shards
    return dataclasses.replace(experiment, mesh=mesh, batch_size=size, accumulate=1)


def _read_config(workdir: Path) -> dict[str, Any]:
    try:
        return json.loads((workdir / CONFIG).read_text())
    except ValueError as error:
        raise UserError(
            f"{workdir / CONFIG} is not JSON ({error}); remove it or restore it"
        ) from None
