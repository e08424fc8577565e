"""Saves and restores a run: its state, its progress, and a fingerprint of the state."""

import logging
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from etils import epath
from jax.sharding import Mesh
from orbax.checkpoint import checkpoint_managers

from research.common.errors import UserError
from research.common.patterns import path_name
from research.common.progress import activity
from research.common.storage import AnyPath, absolute
from research.hardware.mesh import replicated, with_sharding
from research.task import Tree
from research.training.state import InferenceState, Progress, TrainState

log = logging.getLogger(__name__)
T = TypeVar("T", TrainState, InferenceState)


class Saved(NamedTuple):
    """The contents of a checkpoint."""

    state: TrainState
    progress: Progress


class SavedForInference(NamedTuple):
    """The part of a checkpoint that evaluation and prediction need."""

    state: InferenceState
    progress: Progress


class Checkpoints:
    """The checkpoints of one run, one folder per step.

    Saving is asynchronous and atomic. Orbax restores arrays whose bytes have changed on disk
    without an error, so a fingerprint is saved with them and compared when they are restored.

    Args:
      folder: folder of the checkpoints.
      mesh: the mesh of the run.
      keep: the number of checkpoints to keep, the newest ones.
    """

    def __init__(self, folder: AnyPath, mesh: Mesh, keep: int = 1):
        self._folder = epath.Path(absolute(folder))
        self._fingerprint = jax.jit(_fingerprint, out_shardings=replicated(mesh))
        options = ocp.CheckpointManagerOptions(
            preservation_policy=checkpoint_managers.LatestN(keep),
            save_decision_policy=checkpoint_managers.FixedIntervalPolicy(1),
        )
        self._manager = ocp.CheckpointManager(self._folder, options=options)

    @property
    def steps(self) -> list[int]:
        """The steps of all checkpoints, newest first."""
        return sorted(self._manager.all_steps(), reverse=True)

    def save(self, state: TrainState, progress: Progress) -> None:
        """Starts to save a checkpoint; the state may be donated as soon as this returns."""
        sums = jax.device_get(self._fingerprint(state)).tolist()
        record = progress.to_json()
        record["fingerprint"] = dict(zip(_leaf_names(state), sums, strict=True))
        items = {"state": ocp.args.StandardSave(state), "progress": ocp.args.JsonSave(record)}
        self._manager.save(progress.step, args=ocp.args.Composite(**items))

    def restore(self, shape: TrainState, shardings: Any) -> Saved | None:
        """Restores the newest readable checkpoint; returns None if there are no checkpoints.

        Checkpoints with missing or modified files are logged and renamed, so that their steps can
        be saved again.

        Args:
          shape: the abstract state.
          shardings: a sharding for each leaf.

        Raises:
          UserError: the checkpoints belong to another model or optimizer, or none is readable.
        """
        unreadable: list[int] = []
        target = jax.tree.map(with_sharding, shape, shardings)
        saved = next(self._readable(target, unreadable), None)
        if saved is None and unreadable:
            raise self._nothing_readable()
        self._rename_unreadable(unreadable)
        return saved

    def restore_for_inference(
        self, shape: TrainState, shardings: Any, average: int = 1
    ) -> SavedForInference | None:
        """Restores the parameters and variables of the newest readable checkpoint.

        The optimizer state is read only if the parameters to evaluate depend on it; the metrics
        are not read. Unreadable checkpoints are logged and skipped.

        Args:
          shape: the abstract training state.
          shardings: a sharding for each of its leaves.
          average: the number of checkpoints to average the parameters of, the newest readable ones.

        Raises:
          UserError: the checkpoints belong to another model, none is readable, or fewer are
            readable than `average`.
        """
        unreadable: list[int] = []
        target = jax.tree.map(with_sharding, shape, shardings).for_inference()
        newest: SavedForInference | None = None
        params, count = None, 0
        for saved in self._readable(target, unreadable):
            count += 1
            state = saved.state.inference
            newest = newest or SavedForInference(state, saved.progress)
            params = _running_mean(params, state.params, count)
            if count == average:
                break
        if newest is None:
            if unreadable:
                raise self._nothing_readable()
            return None
        if count < average:
            raise UserError(
                f"cannot average {average} checkpoints: {self._folder} has {count} readable ones; "
                "train with more config.keep_checkpoints or more frequent config.checkpoint_every"
            )
        return newest._replace(state=newest.state.replace(params=params))

    def close(self) -> None:
        """Waits until all checkpoints are saved."""
        self._manager.wait_until_finished()
        self._manager.close()

    def _readable(self, target: TrainState, unreadable: list[int]) -> Any:
        """Yields the readable checkpoints, newest first; appends other steps to `unreadable`."""
        for step in self.steps:
            try:
                yield self._restore(step, target)
            except UserError:
                raise
            except Exception as error:  # of many types, depending on the damaged byte
                reason = str(error).strip().splitlines()[0][:200] if str(error) else repr(error)
                log.warning(
                    "checkpoint %d is unreadable (%s); trying the previous one", step, reason
                )
                unreadable.append(step)

    def _restore(self, step: int, target: TrainState) -> Saved:
        read = ocp.args.Composite(progress=ocp.args.JsonRestore())
        record = dict(self._manager.restore(step, args=read)["progress"])
        expected = record.pop("fingerprint")
        names = _leaf_names(target)
        whole = bool(target.totals)  # `for_inference` removes them
        missing = sorted(set(names) - set(expected))
        unknown = sorted(set(expected) - set(names)) if whole else []
        if missing or unknown:
            raise UserError(
                f"checkpoint {step} in {self._folder} belongs to another model or optimizer: only "
                f"one of the two has {(missing + unknown)[0]}; choose another --workdir"
            )
        with activity(f"restoring checkpoint {step}"):
            state = self._restore_whole(step, target) if whole else self._restore_part(step, target)
            found = jax.device_get(self._fingerprint(state)).tolist()
        for name, now in zip(names, found, strict=True):
            if expected[name] != now:
                raise ValueError(f"the bits of {name} have changed since the save")
        return Saved(state, Progress(**record))

    def _restore_whole(self, step: int, target: TrainState) -> TrainState:
        read = ocp.args.Composite(state=ocp.args.StandardRestore(target))
        return self._manager.restore(step, args=read)["state"]

    def _restore_part(self, step: int, target: TrainState) -> TrainState:
        """Restores those fields of the saved state that `target` contains."""
        fields = {name: part for name, part in vars(target).items() if jax.tree.leaves(part)}
        arguments = ocp.checkpoint_utils.construct_restore_args(fields)
        read = ocp.args.PyTreeRestore(fields, restore_args=arguments, partial_restore=True)
        restored = self._manager.restore(step, args=ocp.args.Composite(state=read))["state"]
        return target.replace(**restored)

    def _rename_unreadable(self, steps: list[int]) -> None:
        if jax.process_index() == 0:
            for step in steps:
                aside = self._folder.with_name(f"unreadable_checkpoint_{step}")
                aside.rmtree(missing_ok=True)
                (self._folder / str(step)).rename(aside)
        self._manager.reload()

    def _nothing_readable(self) -> UserError:
        return UserError(f"no readable checkpoint in {self._folder}; remove it to start over")


def _running_mean(mean: Tree | None, new: Tree, count: int) -> Tree:
    """Returns the mean of `count` trees, given the mean of all but the last, and the last."""
    if mean is None:
        return new
    return jax.tree.map(lambda old, last: old + (last - old) / count, mean, new)


def _leaf_names(state: TrainState) -> list[str]:
    """Returns path, dtype and shape of each leaf."""
    return [
        f"{path_name(path)} {leaf.dtype}{list(leaf.shape)}"
        for path, leaf in jax.tree_util.tree_leaves_with_path(state)
    ]


def _fingerprint(state: TrainState) -> jax.Array:
    """Returns the sum of each leaf's bits modulo 2^32, uint32 [leaves].

    Integer addition is exact, so the sum does not depend on the sharding, and every flipped bit
    changes it.
    """

    def bit_sum(leaf: jax.Array) -> jax.Array:
        if leaf.dtype == jnp.bool_:
            leaf = leaf.astype(jnp.uint8)
        # An eight-byte value becomes two uint32.
        width = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32, 8: jnp.uint32}[leaf.dtype.itemsize]
        return jnp.sum(jax.lax.bitcast_convert_type(leaf, width), dtype=jnp.uint32)

    return jnp.stack([bit_sum(leaf) for leaf in jax.tree.leaves(state)])
