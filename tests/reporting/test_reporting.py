import json
import re

import pytest
from tensorboardX.proto.event_pb2 import Event

from research.common.config import to_config_dict
from research.common.errors import UserError
from research.reporting.report import write_report
from research.reporting.runs import SUMMARY, evaluation_file
from research.reporting.table import in_a_line, markdown_table, table
from research.training.metrics import read_metrics
from tests.reporting.markup import external, find, rows, text, texts, unnamed


def report(*workdirs):
    return write_report(workdirs, workdirs[0].parent / "report.html").read_text()


def tiles(page):
    return {text(one[0]): text(one[1]) for one in find(page, "div") if one.find("dt") is not None}


def test_metrics_of_a_resumed_run_equal_those_of_an_uninterrupted_one(tmp_path, write_metrics):
    write_metrics(tmp_path / "a", 0, [10, 20, 30, 40])
    write_metrics(tmp_path / "b", 0, [10, 20, 30])
    with (tmp_path / "b" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 40, "spl')  # truncated by the interruption
    write_metrics(tmp_path / "b", 20, [30, 40])
    assert read_metrics(tmp_path / "a") == read_metrics(tmp_path / "b")


def test_tensorboard_has_the_same_values(tmp_path, write_metrics):
    write_metrics(tmp_path, 0, [10, 20])
    (file,) = (tmp_path / "tensorboard").iterdir()
    data, events = file.read_bytes(), {}
    while data:  # records: length, its checksum, the event, its checksum
        length = int.from_bytes(data[:8], "little")
        event = Event.FromString(data[12 : 12 + length])
        events |= {(value.tag, event.step): value.simple_value for value in event.summary.value}
        data = data[16 + length :]
    assert events[("train/loss", 20)] == pytest.approx(0.05)
    assert events[("validation/loss", 10)] == pytest.approx(0.2)


def test_the_metric_that_counts_comes_first(make_run):
    page = report(make_run("a", {"loss": 0.25, "examples": 1234, "accuracy": 0.9876}))
    scores = [(name, value) for name, value in tiles(page).items() if name.startswith("test ")]
    assert scores == [
        ("test accuracy", "98.76 %"),
        ("test loss", "0.25 nats"),
        ("test examples", "1,234"),
    ]
    (main,) = find(page, "div", class_="main")
    assert text(main[0]) == "test accuracy"
    assert texts(page, "figcaption") == ["accuracy", "loss"]


def test_a_report_has_time_memory_environment_and_commands(make_run):
    page = report(make_run("my run"))
    shown = tiles(page)
    assert shown["training"] == "12.3 s" and shown["compiling"] == "5.0 s"
    assert shown["goodput (training / all time)"] == "50 %"
    assert shown["MFU (of the peak in 16 bits)"] == "34.5 %"
    assert shown["peak host memory"] == "1.50 GiB" and shown["peak device memory"] == "1.00 GiB"
    assert "24.7 s until the end of training" in page
    assert "finished 2026-01-02 03:04 UTC · commit 0123456789<" in page
    assert {("python", "3.13.0"), ("hardware", "1 x abacus")} <= {
        tuple(row) for row in rows(page) if len(row) == 2
    }
    commands = texts(page, "pre")
    assert commands[0] == "python -m research.train '--workdir=runs/my run'"
    assert re.fullmatch(r"python -m research\.evaluate '--workdir=/.*/my run'", commands[1])


def test_a_report_of_a_tpu_run_contains_its_cost(make_run):
    workdir = make_run("a")
    spent = {"dollars": 1234.567, "dollars_per_hour": 19.2, "price": "list price in Utopia"}
    summary = json.loads((workdir / SUMMARY).read_text())
    (workdir / SUMMARY).write_text(json.dumps(summary | spent))
    shown = tiles(report(workdir))
    name = "training and compiling, at $19.20 per hour, list price in Utopia"
    assert shown[name] == "$1,234.57"


def test_a_report_is_one_file_for_light_and_dark_screens_of_any_size(make_run):
    page = report(make_run("a", figures=("Dots",)))
    assert "http:" not in page.replace("http://www.w3.org/2000/svg", "") and "https:" not in page
    assert not external(page) and "@import" not in page and "url(" not in page
    assert 'name="viewport"' in page and "prefers-color-scheme: dark" in page
    assert not unnamed(page)


def test_texts_of_users_are_escaped(make_run):
    evil = "<script>alert(1)</script>"
    workdir = make_run("<b>&", {"ap/<i>": 0.5, "loss": 1.0}, [evil], (evil,), seed=evil)
    summary = json.loads((workdir / SUMMARY).read_text())
    names = {"command": evil, "hardware": evil, "environment": {evil: evil}}
    (workdir / SUMMARY).write_text(json.dumps(summary | names))
    for page in (report(workdir), report(workdir, make_run("other"))):
        assert "<script>alert" not in page and "<b>&amp;" not in page and "<i>" not in page
        assert "&lt;script&gt;alert" in page and "&lt;b&gt;&amp;" in page


def test_figures_have_a_section_and_a_link(make_run):
    page = report(make_run("a", figures=("Confusion matrix", "Classes")))
    links = {text(one): one.get("href") for one in find(page, "nav")[0]}
    titles = ["Learning curves", "Confusion matrix", "Classes", "Config", "Environment", "Commands"]
    assert list(links) == titles == texts(page, "h2")
    for address in links.values():
        assert find(page, "section", id=address.removeprefix("#"))
    assert "Classes of a" in texts(page, "p") and "<caption>" in texts(page, "p")


def test_notes_and_a_missing_test_split_are_shown(make_run):
    workdir = make_run("a", notes=["BLEU is 0 <because>"])
    assert texts(report(workdir), "p", class_="note") == ["BLEU is 0 <because>"]
    path = workdir / evaluation_file("test")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"split": "validation"}))
    page = report(workdir)
    note = "The data have no test split; these are scores of the validation split."
    assert note in texts(page, "p", class_="note")
    assert "validation accuracy" in tiles(page) and "test accuracy" not in tiles(page)


def test_config_keys_that_differ_from_their_default_are_marked(make_run, experiment):
    workdir = make_run("a")
    config = to_config_dict(experiment).to_dict()
    (workdir / "config.json").write_text(json.dumps(config))
    page = report(workdir)
    shown = {row[0]: row[1:] for row in rows(page) if row and row[0] in ("batch_size", "seed")}
    assert shown == {"batch_size": ["64", "128"], "seed": ["0", ""]}
    changed = [text(row[0]) for row in find(page, "tr", class_="changed")]
    assert "batch_size" in changed and "task.model.widths" in changed and "seed" not in changed
    (key,) = [one for one in find(page, "code") if text(one) == "batch_size"]
    assert "optimizer step" in key.get("title")


def test_a_config_of_another_version_is_shown_without_defaults(make_run):
    page = report(make_run("a", unknown_key=3))
    assert ["unknown_key", "3"] in rows(page) and "differ from their default" not in page


def test_a_report_imports_no_code_that_a_config_names(make_run, experiment, tmp_path):
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'executed')!r}, 'w')")
    workdir = make_run("a")
    config = to_config_dict(experiment).to_dict()
    config["task"]["model"] = {"type": f"{tmp_path / 'evil.py'}:Net"}
    (workdir / "config.json").write_text(json.dumps(config))
    assert ["batch_size", "64"] in rows(report(workdir))
    assert not (tmp_path / "executed").exists()


def test_parts_of_a_metric_are_in_a_table_without_tile(make_run):
    page = report(make_run("a", {"ap": 0.5, "ap/cat": 0.25}, task="ObjectDetection"))
    assert tiles(page)["test AP"] == "0.5" and "test AP, cat" not in tiles(page)
    assert ["AP, cat", "0.25"] in rows(page)


def test_scores_that_are_not_finite_are_null_in_the_files(make_run):
    """JSON has no NaN: other programs refuse the whole file."""
    scores = {"ap": float("nan"), "ap/cat": float("inf"), "loss": 0.5}
    workdir = make_run("a", scores, task="ObjectDetection")
    saved = json.loads((workdir / evaluation_file("test")).read_text(), parse_constant=pytest.fail)
    assert saved["metrics"] == {"ap": None, "ap/cat": None, "loss": 0.5}
    page = report(workdir)
    assert tiles(page)["test AP"] == "nan" and ["AP, cat", "nan"] in rows(page)


def test_the_report_of_an_unfinished_run_says_so(make_run):
    workdir = make_run("a")
    (workdir / evaluation_file("test")).unlink()
    (workdir / SUMMARY).unlink()
    page = report(workdir)
    assert "Not evaluated yet." in page and tiles(page) == {"steps": "20"}
    assert "not finished" in report(workdir, make_run("b"))


def test_pictures_of_older_versions_are_left_out(make_run):
    workdir = make_run("a")
    path = workdir / evaluation_file("test")
    old = json.loads(path.read_text()) | {"figures": {"Confusion matrix": "figures/a.png"}}
    path.write_text(json.dumps(old))
    assert "Confusion matrix" not in report(workdir)


def test_a_workdir_without_metrics_is_refused(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match="missing metrics"):
        write_report([tmp_path], tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


def test_a_table_is_aligned():
    lines = [{"file": "a", "p": 0.5}, {"file": "longer", "p": 1.0}]
    assert table(lines) == "file    p\na       0.500\nlonger  1.000"
    assert table([row | {"words": [1, 2]} for row in lines]) == table(lines)
    assert in_a_line({"word": "a", "start": 0.25}) == "a  0.250"


def test_a_table_in_markdown_escapes_its_separator():
    """Types and names of classes can contain it."""
    text = markdown_table(("key", "type"), [("a|b", "int | None"), ("c", 3)])
    assert text == "| key | type |\n| --- | --- |\n| a\\|b | int \\| None |\n| c | 3 |"
