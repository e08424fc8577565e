import dataclasses

import jax
import pytest

from research.hardware.mesh import MeshConfig
from research.training.loop import Trainer
from research.training.run import open_run


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
