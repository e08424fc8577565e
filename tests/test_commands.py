"""End-to-end tests of the commands: training, evaluation, prediction, report, and errors."""

import json
import multiprocessing
import os
import runpy
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from research.tasks.image_classification.data import Digits
from research.training.run import open_run
from tests.reporting.markup import find, text, texts

ROOT = Path(__file__).parents[1]
DIGITS = "--config=experiments/image_classification/digits_mlp.py"
SHORT = ("--config.duration=4 epochs", "--config.checkpoint_every=1 epoch")


@pytest.fixture(scope="module", autouse=True)
def cache(compilation_cache):
    """Sets a compilation cache for the commands, instead of the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(compilation_cache))
        yield


def call(command, *arguments):
    """Runs a command in a new Python process."""
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    return subprocess.run(
        [sys.executable, "-m", f"research.{command}", *map(str, arguments)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )


# Imports take half of the time of a short command, so processes are forked after the imports.
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload([__name__, "research.reporting.report", "research.training.loop"])


def quick_call(command, *arguments):
    """Runs a command in a forked process with imported libraries."""
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / name for name in ("stdout", "stderr")]
        process = SERVER.Process(target=_become, args=(command, list(map(str, arguments)), files))
        process.start()
        process.join()
        texts = [file.read_text() for file in files]
        return subprocess.CompletedProcess((command, *arguments), process.exitcode, *texts)


def _become(command, arguments, files):
    for descriptor, file in enumerate(files, 1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT), descriptor)
    os.chdir(ROOT)
    os.environ.pop("XLA_FLAGS", None)
    sys.argv = [command, *arguments]
    runpy.run_module(f"research.{command}", run_name="__main__", alter_sys=True)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("commands") / "digits"
    done = call("train", DIGITS, f"--workdir={folder}", *SHORT)
    assert done.returncode == 0, done.stderr
    assert f"report  {folder / 'report.html'}, for a browser" in done.stderr
    assert f"curves  `tensorboard --logdir {folder}`, after" in done.stderr
    return folder


def test_training_a_finished_run_again_changes_nothing(workdir):
    done = quick_call("train", DIGITS, f"--workdir={workdir}", *SHORT)
    assert done.returncode == 0
    assert "is finished after" in done.stderr


@pytest.mark.slow
def test_evaluation_prints_one_line_of_json(workdir):
    done = call("evaluate", f"--workdir={workdir}", "--json")
    (line,) = done.stdout.splitlines()
    results = json.loads(line)
    assert results["split"] == "test"
    assert results["examples"] == len(Digits(test_fraction=0.5).open("test"))
    assert 0.5 < results["accuracy"] <= 1
    assert 0 < results["loss"] < 3
    assert json.loads((workdir / "evaluation_test.json").read_text())["metrics"] == {
        name: value for name, value in results.items() if name != "split"
    }


def test_prediction_prints_a_table(workdir, tmp_path):
    digits = Digits(test_fraction=0.5).open("test").arrays
    files = [tmp_path / f"{i}.png" for i in range(3)]
    for i, file in enumerate(files):
        Image.fromarray(digits["image"][i, ..., 0]).save(file)
    done = call("predict", f"--workdir={workdir}", "--json", *files)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["file"] for row in rows] == list(map(str, files))
    run = open_run(workdir)
    batch = {"image": digits["image"][:8]}
    step = run.program.predict_step(run.state, jax.device_put(batch))
    expected = np.asarray(step["probability"])
    assert [row["class"] for row in rows] == [str(i) for i in expected[:3].argmax(-1)]
    np.testing.assert_allclose(
        [row["probability"] for row in rows], expected[:3].max(-1), rtol=1e-4
    )
    table = quick_call("predict", f"--workdir={workdir}", *files).stdout.splitlines()
    assert table[0].split() == ["file", "class", "probability", "next"]
    assert len(table) == 4


def test_prediction_reads_its_inputs_from_a_file(workdir, tmp_path):
    image = Digits(test_fraction=0.5).open("test").arrays["image"][0, ..., 0]
    Image.fromarray(image).save(tmp_path / "a.png")
    (tmp_path / "list.txt").write_text(f"{tmp_path / 'a.png'}\n" * 2)
    done = quick_call(
        "predict", f"--workdir={workdir}", "--json", f"--input={tmp_path / 'list.txt'}"
    )
    assert [json.loads(line)["file"] for line in done.stdout.splitlines()] == [
        str(tmp_path / "a.png")
    ] * 2
    (tmp_path / "list.txt").write_text("a.png\n\n")
    done = quick_call("predict", f"--workdir={workdir}", f"--input={tmp_path / 'list.txt'}")
    assert (done.returncode, done.stdout) == (2, "")
    assert "list.txt:2 is empty; remove the line" in done.stderr


def test_an_unreadable_input_is_named_and_the_others_are_answered(workdir, tmp_path):
    good, bad = tmp_path / "good.png", [tmp_path / "empty.png", tmp_path / "absent.png"]
    Image.new("L", (8, 8)).save(good)
    bad[0].write_bytes(b"")
    done = quick_call("predict", f"--workdir={workdir}", bad[0], good, bad[1])
    assert done.returncode == 1
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["file", str(good)]
    reasons = f"error: cannot read image {bad[0]}: unknown image format\n"
    assert done.stderr == f"{reasons}error: cannot read image {bad[1]}: no such file\n"


def test_the_command_fails_if_no_input_is_readable(workdir, tmp_path):
    done = quick_call("predict", f"--workdir={workdir}", tmp_path / "absent.png")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"error: cannot read image {tmp_path / 'absent.png'}: no such file\n"


@pytest.mark.slow
def test_a_changed_config_is_evaluated_but_not_saved(workdir):
    before = (workdir / "evaluation_test.json").read_text()
    change = "--change=task.source.split=last"
    results = json.loads(quick_call("evaluate", f"--workdir={workdir}", "--json", change).stdout)
    assert results["accuracy"] != json.loads(before)["metrics"]["accuracy"]
    assert (workdir / "evaluation_test.json").read_text() == before


@pytest.mark.slow
def test_a_report_of_several_runs(workdir, tmp_path):
    other = shutil.copytree(workdir, tmp_path / "other")
    done = call("report", f"--workdir={workdir},{other}", f"--output={tmp_path / 'both.html'}")
    assert done.stdout == f"{tmp_path / 'both.html'}\n", done.stderr
    page = (tmp_path / "both.html").read_text()
    assert texts(page, "h1") == ["2 runs"]
    sections = {text(one.find("summary")): one for one in find(page, "details")}
    assert {"Confusion matrix", "Classes"} <= set(sections)
    for section in sections.values():
        assert [text(one) for one in section.iter("h4")] == [workdir.name, other.name]


def test_the_keys_of_an_experiment_are_listed():
    file = DIGITS.removeprefix("--config=")
    done = quick_call("config", file, "--config.seed=3", "--config.task.model.type=CNN")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    start = lines.index("* seed=3  (int)")
    assert lines[start + 1].startswith("      ") and "initial parameters" in lines[start + 1]
    models = "MLP | CNN | ResNet | FastResNet | EfficientNetLite | MobileNetV3 | ViT"
    assert f"  task.model.type=CNN  ({models})" in lines
    assert "  task.model.widths=32,64  (tuple[int, ...])" in lines
    assert "  optimizer  (Optimizer)" in lines


def test_every_listed_change_is_accepted():
    """The listed lines are valid flags, and quoted for a shell."""
    file = "experiments/object_detection/digit_scenes.py"
    listed = quick_call("config", file).stdout
    changes = [line[2:].rsplit("  (", 1)[0] for line in listed.splitlines() if line[2] != " "]
    flags = [f"--config.{change}" for change in changes if "=" in change]
    done = quick_call("config", file, *shlex.split(" ".join(flags)))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == listed


def test_the_first_lines_of_a_listing_can_be_read():
    """Without a traceback when the reader ends, as `head` does."""
    file = DIGITS.removeprefix("--config=")
    command = f"{sys.executable} -m research.config {file} | head -1"
    done = subprocess.run(command, shell=True, cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.startswith("* task.type=ImageClassification") and done.stderr == ""
