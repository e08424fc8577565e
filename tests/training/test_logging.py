"""What a user sees of a training, on a terminal and in a log file."""

import logging
import types

import pytest

from research.common import progress
from research.task import Metric, percentage
from research.training.logging import TrainingLogger
from research.training.metrics import read_metrics

METRICS = {"bleu": Metric("BLEU", scale=100), "wer": percentage("word error rate", "lower")}
SAMPLER = types.SimpleNamespace(mean_batch_size=8, batches_per_epoch=10)


@pytest.fixture(params=[False, True], ids=["file", "terminal"])
def terminal(request, monkeypatch, caplog):
    """Whether the standard error stream is a terminal."""
    stream = types.SimpleNamespace(isatty=lambda: request.param)
    monkeypatch.setattr(progress, "sys", types.SimpleNamespace(stderr=stream))
    caplog.set_level(logging.INFO)
    return request.param


@pytest.fixture
def start(tmp_path):
    """Returns a function that starts the log of a run of 40 steps."""

    def start(step=0):
        return TrainingLogger(tmp_path, step, 40, SAMPLER, step, METRICS)

    return start


def test_validation_metrics_are_logged_on_a_terminal_too(start, terminal, caplog):
    with start() as logger:
        logger.write(10, "train", {"loss": 0.5})
        logger.write(10, "validation", {"loss": 0.25, "ap": 0.5, "ap/cat": 0.5})
    lines = ["step 10  train  loss 0.5"] * (not terminal)
    assert caplog.messages == [*lines, "step 10  validation  loss 0.25, ap 0.5"]


def test_log_lines_have_the_scale_and_unit_of_reports(start, caplog, tmp_path):
    """The files have fractions."""
    caplog.set_level(logging.INFO)
    values = {"bleu": 0.08614, "wer": 0.125, "loss": 0.5}
    with start() as logger:
        logger.write(10, "validation", values)
    assert caplog.messages == ["step 10  validation  bleu 8.614, wer 12.50 %, loss 0.5"]
    assert read_metrics(tmp_path) == [{"step": 10, "split": "validation", **values}]


@pytest.mark.parametrize(("step", "lines"), [(0, []), (20, ["resuming at step 20 of 40"])])
def test_a_resumed_run_names_its_step(start, caplog, step, lines):
    caplog.set_level(logging.INFO)
    with start(step):
        assert caplog.messages == lines


def test_the_bar_shows_the_epoch(start, terminal, monkeypatch):
    shown = []
    with start(19) as logger:
        monkeypatch.setattr(logger._bar, "set_postfix_str", lambda text, **_: shown.append(text))
        for loss in (None, 2.0, 1.0):
            logger.advance(loss)
            logger._updated = 0.0
    assert shown == (["epoch 3/4, loss 2.0000", "epoch 3/4, loss 1.0000"] if terminal else [])
