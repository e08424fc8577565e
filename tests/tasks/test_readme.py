"""The experiment that the README of the tasks shows can be copied as it is."""

import re
import sys
from pathlib import Path

import pytest

from research.training.experiment import load_experiment
from research.training.loop import Trainer

README = Path(__file__).parents[2] / "research" / "tasks" / "README.md"


@pytest.mark.slow
def test_the_experiment_with_a_model_of_ones_own_trains(tmp_path, monkeypatch):
    code = re.search(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert code is not None
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    file = Path("experiments", "mine.py")
    file.parent.mkdir()
    file.write_text(code[1])
    changes = ["duration=2_steps", "batch_size=8", "optimizer.warmup=0_steps", "mesh.devices=1"]
    try:
        experiment = load_experiment(file, [*changes, "evaluate_every=0_steps"])
        run, _ = Trainer(experiment, tmp_path / "run").train()
        assert run.progress.step == 2
    finally:
        sys.modules.pop(str(file), None)
