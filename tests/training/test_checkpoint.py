import dataclasses
import logging
import random
import shutil

import jax
import numpy as np
import pytest

from research.common.errors import UserError
from research.hardware.mesh import MeshConfig
from research.training.checkpoint import Checkpoints
from research.training.loop import Trainer
from research.training.run import CHECKPOINTS, open_run
from tests.training.states import saved_state


@pytest.fixture
def trained(experiment, tmp_path):
    """A finished run with checkpoints at steps 16 and 24."""
    run, _ = Trainer(experiment, tmp_path / "run").train()
    return run


def damage(workdir, step, how):
    """Changes the largest file of a checkpoint: the arrays."""
    files = [
        path for path in (workdir / CHECKPOINTS / str(step) / "state").rglob("*") if path.is_file()
    ]
    largest = max(files, key=lambda path: path.stat().st_size)
    data = bytearray(largest.read_bytes())
    if how == "flip":
        data[random.Random(0).randrange(len(data) // 4, len(data) // 2)] ^= 0x10
        largest.write_bytes(data)
    elif how == "truncate":
        largest.write_bytes(data[: len(data) // 2])
    else:
        largest.unlink()


@pytest.mark.slow
def test_a_checkpoint_moves_between_device_counts(experiment, tmp_path):
    """Saved on 8 devices, restored and trained on 1, and restored on 8: the bits are the same."""
    on_eight = dataclasses.replace(experiment, mesh=MeshConfig(fsdp=8), duration="8 steps")
    Trainer(on_eight, tmp_path).train()
    one = saved_state(tmp_path, experiment)
    eight = saved_state(tmp_path, on_eight)
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(eight), jax.device_get(one))
    assert len(one.params["Dense_0"]["kernel"].sharding.device_set) == 1
    Trainer(experiment, tmp_path, allow_config_change=True).train()
    longer, back = saved_state(tmp_path, experiment), saved_state(tmp_path, on_eight)
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(longer), jax.device_get(back))
    shards = back.params["Dense_0"]["kernel"].addressable_shards
    assert {shard.data.shape for shard in shards} == {(8, 32)}


def test_a_run_resumes_on_another_mesh(experiment, tmp_path):
    Trainer(dataclasses.replace(experiment, mesh=MeshConfig(fsdp=8)), tmp_path).train()
    assert not Trainer(experiment, tmp_path).train()[1]


@pytest.mark.parametrize(
    "how", ["flip", *(pytest.param(how, marks=pytest.mark.slow) for how in ("truncate", "delete"))]
)
def test_a_damaged_checkpoint_is_logged_and_the_previous_one_restored(
    trained, caplog, how, experiment
):
    state = saved_state(trained.workdir)
    damage(trained.workdir, 24, how)
    logging.getLogger("research").propagate = True
    with caplog.at_level(logging.WARNING, logger="research"):
        opened = open_run(trained.workdir)
        # The damaged file may contain only optimizer state, which inference does not restore.
        assert int(opened.state.step) in (16, 24)
        _, was_trained = Trainer(experiment, trained.workdir).train()
    assert "checkpoint 24 is unreadable" in caplog.text
    assert was_trained
    assert (trained.workdir / "unreadable_checkpoint_24").exists()
    jax.tree.map(
        np.testing.assert_array_equal,
        jax.device_get(saved_state(trained.workdir)),
        jax.device_get(state),
    )
    assert int(open_run(trained.workdir).state.step) == 24


def test_inference_detects_a_flipped_bit_of_a_parameter(trained, caplog, monkeypatch):
    """Changes the restored array, since the position of a parameter in the files is unknown."""
    restore = Checkpoints._restore_part

    def flipped(self, step, target):
        state = restore(self, step, target)
        if step != 24:
            return state
        kernel = state.params["head"]["kernel"]
        changed = {
            **state.params,
            "head": {**state.params["head"], "kernel": kernel.at[0, 0].multiply(1 + 2**-23)},
        }
        return state.replace(params=changed)

    monkeypatch.setattr(Checkpoints, "_restore_part", flipped)
    logging.getLogger("research").propagate = True
    with caplog.at_level(logging.WARNING, logger="research"):
        assert int(open_run(trained.workdir).state.step) == 16
    assert "the bits of params/head/kernel float32[32, 10] have changed" in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize("ema_decay", [0.0, 0.9])
def test_checkpoints_are_averaged(experiment, tmp_path, ema_decay):
    changed = dataclasses.replace(experiment, ema_decay=ema_decay)
    Trainer(changed, tmp_path).train()
    newest = saved_state(tmp_path).inference
    mean = open_run(tmp_path, average=2).state
    shutil.rmtree(tmp_path / CHECKPOINTS / "24")
    before = saved_state(tmp_path).inference
    both = [state.params["head"]["kernel"] for state in (newest, before)]
    assert not np.allclose(*both)
    averaged = mean.params["head"]["kernel"]
    np.testing.assert_allclose(averaged, sum(both) / 2, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_averaging_more_checkpoints_than_saved_is_refused(trained):
    with pytest.raises(UserError, match=r"cannot average 5 checkpoints: .* has 2 readable ones"):
        open_run(trained.workdir, average=5)


def test_without_a_readable_checkpoint_no_file_is_removed(trained, experiment):
    for step in (16, 24):
        shutil.rmtree(trained.workdir / CHECKPOINTS / str(step) / "state")
    with pytest.raises(UserError, match="no readable checkpoint"):
        open_run(trained.workdir)
    with pytest.raises(UserError, match="no readable checkpoint"):
        Trainer(experiment, trained.workdir).train()
    assert {path.name for path in (trained.workdir / CHECKPOINTS).iterdir()} >= {"16", "24"}


@pytest.mark.slow
def test_a_run_opens_on_fewer_devices_than_its_mesh(experiment, tmp_path, monkeypatch):
    on_eight = dataclasses.replace(experiment, mesh=MeshConfig(fsdp=4), batch_size=64)
    trained, _ = Trainer(on_eight, tmp_path).train()
    monkeypatch.setattr("jax.devices", lambda *_: [jax.local_devices()[0]])
    run = open_run(tmp_path)
    assert run.program.mesh.size == 1
    jax.tree.map(
        np.testing.assert_array_equal, jax.device_get(run.state), jax.device_get(trained.state)
    )
