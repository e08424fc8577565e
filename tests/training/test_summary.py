import dataclasses
import json
import types

import pytest

from research.training import summary as module
from research.training.loop import Trainer
from research.training.summary import mean_flops, summarize


@pytest.fixture(scope="module")
def trainer(experiment, tmp_path_factory):
    trainer = Trainer(experiment, tmp_path_factory.mktemp("run"))
    trainer.run, _ = trainer.train()
    return trainer


def test_a_summary_has_the_facts_of_a_training(trainer):
    facts = summarize(trainer.run, trainer.data.sampler, ["python", "--workdir=my run"])
    facts = json.loads(json.dumps(facts))
    assert facts["command"] == "python '--workdir=my run'"
    assert facts["finished"].endswith("+00:00")
    assert facts["environment"]["jax"] == facts["jax"]
    assert 0 < facts["seconds"] + facts["compile_seconds"] <= facts["total_seconds"]
    assert facts["parameters"] == 64 * 32 + 32 + 32 * 10 + 10
    assert facts["peak_host_bytes"] > 0
    assert "mfu" not in facts and "peak_device_bytes" not in facts  # unknown for CPUs


def test_the_mfu_is_the_part_of_the_devices_peak(trainer, monkeypatch):
    monkeypatch.setattr(module, "peak_flops", lambda kind: 1e9)
    progress = dataclasses.replace(trainer.run.progress, step=10, seconds=2.0)
    run = dataclasses.replace(trainer.run, progress=progress)
    facts = summarize(run, trainer.data.sampler, [])
    # Both products of the forward pass, twice as many of the backward pass without the input's.
    forward = 2 * 64 * (64 * 32 + 32 * 10)
    flops = 2 * forward + 2 * 64 * 32 * 10
    assert mean_flops(run.program, trainer.data.sampler) == flops
    assert facts["mfu"] == pytest.approx(10 * flops / 2.0 / 1e9)


def test_memory_of_devices_that_report_it(trainer, monkeypatch):
    device = types.SimpleNamespace(memory_stats=lambda: {"peak_bytes_in_use": 123})
    monkeypatch.setattr(module.jax, "local_devices", lambda: [device])
    facts = summarize(trainer.run, trainer.data.sampler, [])
    assert facts["peak_device_bytes"] == 123
