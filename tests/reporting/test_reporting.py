import json
import re

import numpy as np
import pytest
from matplotlib.figure import Figure
from tensorboardX.proto.event_pb2 import Event

from research.common.errors import UserError
from research.reporting.figures import learning_curves
from research.reporting.report import SUMMARY, evaluation_file, write_report
from research.reporting.table import in_a_line, table
from research.training.metrics import MetricWriter, read_metrics


def write(workdir, resume_at, steps):
    writer = MetricWriter(workdir, resume_at)
    for step in steps:
        writer.write(step, "train", {"loss": 1 / step})
        writer.write(step, "validation", {"loss": 2 / step, "accuracy": 0.5})
    writer.close()


def test_metrics_of_a_resumed_run_equal_those_of_an_uninterrupted_one(tmp_path):
    write(tmp_path / "a", 0, [10, 20, 30, 40])
    write(tmp_path / "b", 0, [10, 20, 30])
    with (tmp_path / "b" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 40, "spl')  # truncated by the interruption
    write(tmp_path / "b", 20, [30, 40])
    assert read_metrics(tmp_path / "a") == read_metrics(tmp_path / "b")


def test_tensorboard_has_the_same_values(tmp_path):
    write(tmp_path, 0, [10, 20])
    (file,) = (tmp_path / "tensorboard").iterdir()
    data, events = file.read_bytes(), {}
    while data:  # records: length, its checksum, the event, its checksum
        length = int.from_bytes(data[:8], "little")
        event = Event.FromString(data[12 : 12 + length])
        events |= {(value.tag, event.step): value.simple_value for value in event.summary.value}
        data = data[16 + length :]
    assert events[("train/loss", 20)] == pytest.approx(0.05)
    assert events[("validation/loss", 10)] == pytest.approx(0.2)


def test_each_metric_has_a_curve(tmp_path):
    write(tmp_path, 0, [10, 20])
    one = learning_curves({"a": read_metrics(tmp_path)})
    assert [axes.get_title() for axes in one.axes if axes.lines] == ["loss", "accuracy"]
    loss = one.axes[0]
    assert [line.get_label() for line in loss.lines] == ["train", "validation"]
    np.testing.assert_allclose(loss.lines[1].get_ydata(), [0.2, 0.1])
    two = learning_curves({name: read_metrics(tmp_path) for name in "ab"})
    assert [line.get_label() for line in two.axes[0].lines] == [
        *("a train", "a validation", "b train", "b validation")
    ]


def test_parts_of_a_metric_are_in_a_table_without_curve_or_tile(tmp_path):
    (tmp_path / "config.json").write_text('{"task": {"type": "Toy"}}')
    writer = MetricWriter(tmp_path, 0)
    writer.write(10, "validation", {"ap": 0.5, "ap/cat": 0.25, "ap/dog": 0.75})
    writer.close()
    curves = learning_curves({"a": read_metrics(tmp_path)})
    assert [axes.get_title() for axes in curves.axes if axes.lines] == ["ap"]
    record = {"metrics": {"ap": 0.5, "ap/cat": 0.25}, "figures": {}}
    (tmp_path / evaluation_file("test")).write_text(json.dumps(record))
    page = write_report([tmp_path], tmp_path / "report.html").read_text()
    assert "<div class=tile><b>0.5000</b><span>test ap</span></div>" in page
    assert "<span>test ap/cat" not in page
    assert "<td><code>test ap/cat</code></td><td>0.2500</td>" in page


@pytest.fixture
def runs(tmp_path):
    for name, width in (("small", 8), ("<large>", 64)):
        workdir = tmp_path / name
        workdir.mkdir()
        config = {"task": {"type": "Toy", "model": {"type": "MLP", "width": width}}, "seed": 0}
        (workdir / "config.json").write_text(json.dumps(config))
        write(workdir, 0, [10, 20])
        (workdir / "figures").mkdir()
        Figure(figsize=(2, 1)).savefig(workdir / "figures" / "a.png")
        record = {
            "metrics": {"accuracy": width / 100, "examples": 7},
            "figures": {"Dots": "figures/a.png"},
        }
        (workdir / evaluation_file("test")).write_text(json.dumps(record))
    return [tmp_path / "small", tmp_path / "<large>"]


def test_a_report_contains_scores_curves_figures_and_config(runs):
    summary = {"seconds": 12.34, "compile_seconds": 5, "parameters": 4321, "hardware": "1 x abacus"}
    (runs[0] / SUMMARY).write_text(json.dumps(summary | {"command": "python -m research.train"}))
    page = write_report(runs[:1], runs[0] / "report.html").read_text()
    for text in (
        "0.0800",
        "test accuracy",
        "12.3 s",
        "4,321",
        "1 x abacus",
        "Dots",
        "task.model.width",
    ):
        assert text in page
    assert len(re.findall('<img width=[0-9]+ alt="[^"]*" src="data:image/png;base64,', page)) == 2
    assert "http" not in page  # a report opens without network access


def test_a_report_of_a_tpu_run_contains_its_cost(runs):
    summary = {"seconds": 1, "compile_seconds": 5, "parameters": 4, "hardware": "16 x TPU v5 lite"}
    spent = {"dollars": 1234.567, "dollars_per_hour": 19.2, "price": "list price in Utopia"}
    (runs[0] / SUMMARY).write_text(json.dumps(summary | spent))
    page = write_report(runs[:1], runs[0] / "report.html").read_text()
    assert "16 x TPU v5 lite, $19.20 per hour (list price in Utopia)" in page
    assert "$1,234.57" in page


def test_a_comparison_shows_only_config_keys_that_differ(runs):
    page = write_report(runs, runs[0] / "comparison.html").read_text()
    assert "<th>task.model.width</th><td>8</td><td>64</td>" in page
    assert "<th>test accuracy</th><td>0.0800</td><td>0.6400</td>" in page
    assert "seed" not in page
    assert "&lt;large&gt;" in page
    assert "<large>" not in page


def test_the_report_of_a_run_without_evaluation_says_so(runs):
    (runs[0] / evaluation_file("test")).unlink()
    assert "Not evaluated yet" in write_report(runs[:1], runs[0] / "report.html").read_text()


def test_a_workdir_without_metrics_is_refused(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match="missing metrics"):
        write_report([tmp_path], tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


def test_a_table_is_aligned():
    rows = [{"file": "a", "p": 0.5}, {"file": "longer", "p": 1.0}]
    assert table(rows) == "file    p\na       0.500\nlonger  1.000"
    assert table([row | {"words": [1, 2]} for row in rows]) == table(rows)
    assert in_a_line({"word": "a", "start": 0.25}) == "a  0.250"
