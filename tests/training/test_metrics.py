import pytest

from research.common.errors import UserError
from research.task import Metric, percentage
from research.training.metrics import FILE, MetricWriter, format_metrics, read_metrics


def test_a_resumed_run_removes_the_metrics_after_its_step(tmp_path):
    writer = MetricWriter(tmp_path, 0)
    for step in (5, 10, 15):
        writer.write(step, "train", {"loss": 1.0})
    writer.close()
    MetricWriter(tmp_path, 10).close()
    assert [line["step"] for line in read_metrics(tmp_path)] == [5, 10]


def test_a_run_that_starts_again_removes_former_events(tmp_path):
    former = tmp_path / "tensorboard" / "events.out.tfevents.1.here"
    former.parent.mkdir()
    former.touch()
    MetricWriter(tmp_path, 10).close()
    assert former.exists()
    MetricWriter(tmp_path, 0).close()
    assert not former.exists()


def test_a_line_that_was_cut_off_is_omitted(tmp_path):
    (tmp_path / FILE).write_text('{"step": 5, "split": "train"}\n{"step": 10, "spl')
    assert read_metrics(tmp_path) == [{"step": 5, "split": "train"}]


def test_an_invalid_line_is_refused(tmp_path):
    (tmp_path / FILE).write_text('{"step": 5\n{"step": 10, "split": "train"}\n')
    with pytest.raises(UserError, match=r"invalid JSON in .*metrics\.jsonl:1; remove the line"):
        read_metrics(tmp_path)


def test_a_line_of_metrics_has_their_scales_and_units():
    metrics = {"accuracy": percentage("accuracy"), "loss": Metric("loss", "nats")}
    values = {"accuracy": 0.9972, "accuracy/cat": 0.5, "loss": 0.15, "examples": 1360}
    expected = "accuracy 99.72 %, accuracy/cat 50.00 %, loss 0.15 nats, examples 1,360"
    assert format_metrics(values, metrics) == expected
