"""Saves and restores a run: the state, where the data stood, and a fingerprint of both."""

import logging
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from etils import epath
from jax.sharding import Mesh
from orbax.checkpoint import checkpoint_managers

from research.common.errors import UserError
from research.common.storage import AnyPath, absolute
from research.hardware.mesh import path_name, replicated
from research.task import Tree
from research.training.state import TrainState

log = logging.getLogger(__name__)


class Saved(NamedTuple):
    """What a checkpoint holds."""

    state: TrainState
    progress: dict[str, Any]  # JSON: where the data stood, seconds spent


class Checkpoints:
    """The checkpoints of one run, one folder for each step.

    Saving is asynchronous and atomic: a checkpoint is there whole or not at all. Orbax restores
    arrays whose bytes have changed on the disk without a word, so a fingerprint goes with them.
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
        """The steps that are there, newest first."""
        return sorted(self._manager.all_steps(), reverse=True)

    def save(self, state: TrainState, step: int, progress: dict[str, Any]) -> None:
        """Begins to save; the state may be donated as soon as this returns."""
        sums = jax.device_get(self._fingerprint(state)).tolist()
        record = progress | {"fingerprint": dict(zip(_describe(state), sums, strict=True))}
        items = {"state": ocp.args.StandardSave(state), "progress": ocp.args.JsonSave(record)}
        self._manager.save(step, args=ocp.args.Composite(**items))

    def restore(
        self, shape: TrainState, shardings: Any, set_aside: bool = False, average: int = 1
    ) -> Saved | None:
        """The newest readable checkpoint, laid out as `shardings` say; None where there is none.

        One that cannot be read, or whose bits have changed, is named in a warning and passed over.

        Args:
          shape: of the state.
          shardings: where its parts go.
          set_aside: move unreadable ones out of the way, so that their steps can be saved again.
          average: for inference, take the mean of the parameters over so many checkpoints.

        Raises:
          UserError: the checkpoints are of another network or optimizer, or fewer are readable
            than `average` asks for.
        """
        target = jax.tree.map(
            lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
            shape,
            shardings,
        )
        damaged: list[int] = []
        newest, mean, count = None, None, 0
        for step in self.steps:
            try:
                saved = self._restore(step, target)
            except UserError:
                raise
            except Exception as error:  # what a damaged file raises depends on which byte it lost
                reason = str(error).strip().splitlines()[0][:200] if str(error) else repr(error)
                log.warning("checkpoint %d is unreadable (%s); trying the one before", step, reason)
                damaged.append(step)
                continue
            newest, count = newest or saved, count + 1
            mean = _added(mean, saved.state.inference_params, count)
            if count == average:
                break
        if not newest and damaged:
            raise UserError(f"no readable checkpoint in {self._folder}; remove it to start over")
        if newest and count < average:
            raise UserError(
                f"{self._folder} holds {count} readable checkpoints, not {average}; train with a "
                "greater config.keep_checkpoints, or save more often by config.checkpoint_every"
            )
        if set_aside:
            self._set_aside(damaged)
        if newest is None or average == 1:
            return newest
        changed = {"params": mean} if newest.state.ema is None else {"ema": mean}
        return newest._replace(state=newest.state.replace(**changed))

    def close(self) -> None:
        """Waits until all that was begun is saved."""
        self._manager.wait_until_finished()
        self._manager.close()

    def _restore(self, step: int, target: TrainState) -> Saved:
        read = ocp.args.Composite(progress=ocp.args.JsonRestore())
        progress = dict(self._manager.restore(step, args=read)["progress"])
        expected = progress.pop("fingerprint")
        if unlike := sorted(set(expected) ^ set(_describe(target))):
            raise UserError(
                f"checkpoint {step} in {self._folder} is of another network or optimizer: only one "
                f"of the two has {unlike[0]}; choose another --workdir"
            )
        read = ocp.args.Composite(state=ocp.args.StandardRestore(target))
        state = self._manager.restore(step, args=read)["state"]
        found = jax.device_get(self._fingerprint(state)).tolist()
        for name, now in zip(_describe(state), found, strict=True):
            if expected[name] != now:
                raise ValueError(f"the bits of {name} have changed since they were saved")
        return Saved(state, progress)

    def _set_aside(self, steps: list[int]) -> None:
        if jax.process_index() == 0:
            for step in steps:
                aside = self._folder.with_name(f"unreadable_checkpoint_{step}")
                aside.rmtree(missing_ok=True)
                (self._folder / str(step)).rename(aside)
        self._manager.reload()


def _added(mean: Tree | None, more: Tree, count: int) -> Tree:
    """The mean of `count` trees, from that of all before the last, and the last."""
    if mean is None:
        return more
    return jax.tree.map(lambda old, new: old + (new - old) / count, mean, more)


def _describe(state: TrainState) -> list[str]:
    """Path, dtype and shape of each leaf."""
    return [
        f"{path_name(path)} {leaf.dtype}{list(leaf.shape)}"
        for path, leaf in jax.tree_util.tree_leaves_with_path(state)
    ]


def _fingerprint(state: TrainState) -> jax.Array:
    """[leaves] uint32: each leaf's bits summed modulo 2^32.

    Integer addition has no rounding, so the sum does not depend on how the leaf is sharded, and no
    single change of bits leaves it as it was.
    """

    def bits(leaf: jax.Array) -> jax.Array:
        if leaf.dtype == jnp.bool_:
            leaf = leaf.astype(jnp.uint8)
        # Eight bytes become two words of four.
        width = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32, 8: jnp.uint32}[leaf.dtype.itemsize]
        return jnp.sum(jax.lax.bitcast_convert_type(leaf, width), dtype=jnp.uint32)

    return jnp.stack([bits(leaf) for leaf in jax.tree.leaves(state)])
