"""Runs saved by an earlier version (2b09789), before config keys and classes were renamed."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from research.common.config import from_config_dict
from research.evaluate import evaluate_run
from research.predict import predict
from research.training.experiment import Experiment, load_experiment
from research.training.run import open_run

SAVED = Path(__file__).with_name("saved_run")
CONFIGS = json.loads((SAVED / "experiments.json").read_text())
ROOT = Path(__file__).parents[2]

# Probabilities of the first four classes for the first four test images, by that version.
PROBABILITIES = [
    [0.11360043, 0.13897200, 0.02596897, 0.12750894],
    [0.24265018, 0.03176179, 0.03371933, 0.12517044],
    [0.03989702, 0.00594148, 0.01589161, 0.10125156],
    [0.02867651, 0.15651469, 0.02198507, 0.08078166],
]


@pytest.fixture
def workdir(tmp_path):
    return shutil.copytree(SAVED, tmp_path / "run")


def test_a_saved_run_evaluates_unchanged(workdir):
    saved = json.loads((workdir / "evaluation_test.json").read_text())["metrics"]
    results = evaluate_run(open_run(workdir), "test")
    assert results == pytest.approx(saved, rel=1e-5)


def test_a_saved_run_predicts_unchanged(workdir):
    run = open_run(workdir)
    images = run.program.task.dataset("test").batch(np.arange(4), (0,), None)
    size = -run.program.experiment.batch_size % 4 + run.program.experiment.batch_size
    rows = np.arange(size) % 4
    batch = {
        "image": images["image"][rows],
        "label": images["label"][rows],
        "mask": np.ones(size, np.float32),
        "index": rows.astype(np.int32),
    }
    found = np.asarray(run.program.predict_step(run.state, batch)["probability"])
    np.testing.assert_allclose(found[:4, :4], PROBABILITIES, atol=1e-5)


def test_a_saved_run_predicts_from_files(workdir, tmp_path):
    from PIL import Image

    Image.new("L", (8, 8)).save(tmp_path / "black.png")
    (result,) = predict(open_run(workdir), [str(tmp_path / "black.png")])
    assert result["class"] in "0123456789"


@pytest.mark.parametrize("path", CONFIGS)
def test_the_saved_config_of_every_experiment_opens(path):
    """All values are preserved; the weight decay mask is converted to its current form.

    Later versions log more often, which does not change a result.
    """
    opened = from_config_dict(Experiment, CONFIGS[path])
    assert opened.optimizer.weight_decay_mask == (("kernel$", True),)
    if not (ROOT / path).exists():
        return  # the experiment was removed; its runs still open
    current = load_experiment(ROOT / path)
    mask = current.optimizer.weight_decay_mask
    optimizer = dataclasses.replace(opened.optimizer, weight_decay_mask=mask)
    log_every = current.log_every
    assert dataclasses.replace(opened, optimizer=optimizer, log_every=log_every) == current
