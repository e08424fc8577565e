"""A run on disk: its workdir, its config, and its trained state."""

import dataclasses
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax

from research.common.config import differences, from_config_dict, suggest, to_config_dict
from research.common.errors import ConfigError, UserError, within
from research.common.files import read_json, save_json
from research.common.overrides import with_changes
from research.common.storage import AnyPath, is_in_bucket
from research.hardware.mesh import MeshConfig, batch_shards, on_host
from research.task import Task
from research.training.checkpoint import Checkpoints
from research.training.experiment import Experiment
from research.training.program import Program
from research.training.state import InferenceState, Progress

log = logging.getLogger(__name__)
CHECKPOINTS = "checkpoints"
CONFIG = "config.json"


@dataclass(frozen=True)
class Run:
    """A trained run, opened for evaluation or prediction."""

    workdir: AnyPath
    program: Program
    state: InferenceState
    progress: Progress


def resolve(experiment: Experiment) -> Experiment:
    """Returns the experiment with its task resolved: values from the data are filled in."""
    with within("task"):
        return dataclasses.replace(experiment, task=experiment.task.resolve())


def claim(workdir: AnyPath, experiment: Experiment, allow_change: bool) -> None:
    """Writes the config into a workdir, or checks that the workdir already belongs to it.

    A workdir without a checkpoint has nothing to protect, and takes any config.

    Raises:
      UserError: the workdir belongs to another config; the message names the differences.
    """
    config = to_config_dict(experiment).to_dict()
    path = workdir / CONFIG
    is_run = path.exists() and has_checkpoint(workdir)
    changes = differences(_known_keys(read_json(path)), config) if is_run else []
    for change in changes:
        if change.startswith(("batch_size:", "batch_length:")):
            problem = f"{workdir} was started with another {change}"
            raise UserError(f"{problem}; choose another --workdir")
    # The result does not depend on these, which may change.
    refused = [change for change in changes if not change.startswith(("mesh.", "log_every:"))]
    if refused and not allow_change:
        raise UserError(
            f"{workdir} belongs to another config ({'; '.join(refused)}); "
            "choose another --workdir, or continue with --allow_config_change"
        )
    for change in changes:
        log.warning("config changed: %s", change)
    if (changes or not is_run) and jax.process_index() == 0:
        save_json(path, config)


def saved_config(workdir: AnyPath) -> dict[str, Any]:
    """Returns the resolved config of a run, as plain values.

    Raises:
      UserError: the workdir contains no run.
    """
    if not (workdir / CONFIG).exists():
        raise UserError(f"missing run in {workdir}; {_other_run(workdir)}")
    return read_json(workdir / CONFIG)


def _other_run(workdir: AnyPath) -> str:
    """Returns the remedy for a workdir without a run: the run whose path is the most similar."""
    remedy = "`python -m research.train` creates one"
    if is_in_bucket(workdir):  # listing it may take long
        return remedy
    found = [*workdir.glob(f"*/{CONFIG}"), *workdir.parent.glob(f"*/{CONFIG}")]
    near = suggest(str(workdir), (str(path.parent) for path in found))
    return near if near.startswith("did") else remedy


def open_run(workdir: AnyPath, changes: Sequence[str] = (), average: int = 1) -> Run:
    """Opens the run in a workdir at its newest readable checkpoint, on the available devices.

    Args:
      workdir: the run's folder.
      changes: changes of its config, such as "task.decoding.beam_size=8"; they are not saved.
      average: the number of checkpoints to average the parameters of, the newest ones.

    Raises:
      UserError: the run or a readable checkpoint is missing, or a change is invalid.
    """
    experiment = with_changes(from_config_dict(Experiment, saved_config(workdir)), changes)
    program = Program(_fitted(resolve(experiment) if changes else experiment))
    if not (workdir / CHECKPOINTS).exists():
        raise UserError(f"missing checkpoint in {workdir}; train the run first")
    checkpoints = Checkpoints(workdir / CHECKPOINTS, program.mesh)
    try:
        saved = checkpoints.restore_for_inference(program.state_shape, program.shardings, average)
    finally:
        checkpoints.close()
    if saved is None:
        raise UserError(f"missing checkpoint in {workdir}; train the run first")
    return Run(workdir, program, saved.state, saved.progress)


def has_checkpoint(workdir: AnyPath) -> bool:
    """Whether a run has saved a checkpoint, readable or not."""
    folder = workdir / CHECKPOINTS
    return folder.exists() and any(path.name.isdecimal() for path in folder.iterdir())


def read_parameters(workdir: AnyPath) -> tuple[Task, dict[str, Any]]:
    """Reads the inference parameters and variables of a run into host memory.

    Returns:
      The run's task, and {"params": ..., "batch_stats": ...}, NumPy arrays.

    Raises:
      UserError: as `open_run`.
    """
    run = open_run(workdir)
    params, variables = run.state.params, run.state.variables
    return run.program.task, on_host({"params": params, **variables})


def _fitted(experiment: Experiment) -> Experiment:
    """Returns the experiment adapted to the available devices, if its mesh does not fit them."""
    mesh = experiment.mesh
    try:
        shards = batch_shards(mesh.build(jax.devices()))
    except ConfigError:
        mesh = MeshConfig()
        shards = batch_shards(mesh.build(jax.devices()))
        log.warning("the run's mesh does not fit the available devices; replicating the parameters")
    size = -(-experiment.batch_size // shards) * shards
    return dataclasses.replace(
        experiment, mesh=mesh, batch_size=size, gradient_accumulation_steps=1
    )


def _known_keys(saved: dict[str, Any]) -> dict[str, Any]:
    """Returns a saved config with the current names of keys, and defaults for newer keys."""
    try:
        return to_config_dict(from_config_dict(Experiment, saved)).to_dict()
    except ConfigError:
        return saved
