import dataclasses

import jax
import pytest

from research.common.errors import UserError
from research.common.files import read_json
from research.hardware.mesh import MeshConfig
from research.training.loop import Trainer
from research.training.run import claim, open_run


@pytest.mark.slow
def test_a_run_opens_on_more_devices_than_its_batch_has_parts(experiment, tmp_path, monkeypatch):
    """The batch is rounded up to the devices, and not accumulated."""
    changed = dataclasses.replace(
        experiment,
        duration="2 steps",
        batch_size=12,
        gradient_accumulation_steps=4,
        mesh=MeshConfig(),
    )
    with monkeypatch.context() as patch:
        patch.setattr("jax.devices", lambda *_: jax.local_devices()[:1])
        Trainer(changed, tmp_path).train()
    opened = open_run(tmp_path).program.experiment
    assert (opened.batch_size, opened.gradient_accumulation_steps) == (16, 1)


def test_what_does_not_change_the_result_may_change_in_a_run(experiment, tmp_path):
    claim(tmp_path, experiment, allow_change=False)
    (tmp_path / "checkpoints" / "1").mkdir(parents=True)  # a run without any takes every config
    changed = dataclasses.replace(experiment, log_every="3 steps", mesh=MeshConfig(devices=2))
    claim(tmp_path, changed, allow_change=False)
    assert read_json(tmp_path / "config.json")["log_every"] == "3 steps"
    with pytest.raises(UserError, match=r"belongs to another config \(seed: 0 -> 1\)"):
        claim(tmp_path, dataclasses.replace(changed, seed=1), allow_change=False)
