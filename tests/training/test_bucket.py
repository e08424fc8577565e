"""Runs with a workdir in a bucket of a simulated Cloud Storage."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time

import fsspec.config
import pytest
from PIL import Image

from research.common.errors import UserError
from research.common.storage import as_path
from research.tasks.image_classification.data import Digits
from research.training.evaluation import evaluate
from research.training.loop import Trainer
from research.training.metrics import MetricWriter, read_metrics
from research.training.run import open_run
from tests.data.test_tfds import TinyImages
from tests.launch.twin.bucket import Bucket
from tests.training.states import saved_state
from tests.training.test_loop import assert_equal, metrics, train_and_die, train_to_end
from tests.training.test_processes import two_processes

DIGITS = "--config=experiments/image_classification/digits_mlp.py"
SHORT = ("--config.duration=40 steps", "--config.checkpoint_every=8 steps")


@pytest.fixture(scope="module")
def bucket(tmp_path_factory):
    """Simulates gs://runs for this process and its child processes."""
    with (
        Bucket(tmp_path_factory.mktemp("cloud"), "runs", page=20) as bucket,
        pytest.MonkeyPatch.context() as patch,
    ):
        for name, value in bucket.environment.items():
            patch.setenv(name, value)
        patch.setattr(fsspec.config, "conf", {})
        fsspec.config.set_conf_env(fsspec.config.conf)
        yield bucket


def folder(bucket, name):
    """Returns the local folder of a run in the bucket."""
    return bucket.objects.folder / "runs" / name


@pytest.fixture(scope="module")
def uninterrupted(experiment, tmp_path_factory):
    return train_to_end(experiment, tmp_path_factory.mktemp("uninterrupted"))


@pytest.fixture(scope="module")
def killed(experiment, bucket):
    """A run in the bucket that was killed after step 13, without cleanup, and resumed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MetricWriter, "close", lambda writer: writer._copied.cleanup())
        train_and_die(experiment, as_path("gs://runs/killed"), patch, after=13)
    assert (folder(bucket, "killed") / "checkpoints" / "8" / "commit_success.txt").exists()
    run, _ = Trainer(experiment, as_path("gs://runs/killed")).train()
    return run


@pytest.mark.slow
def test_a_run_killed_in_a_bucket_ends_with_the_bits_of_an_uninterrupted_run_on_disk(
    bucket, uninterrupted, killed
):
    assert_equal(uninterrupted[0].inference, killed.state)
    assert uninterrupted[1] == metrics(as_path("gs://runs/killed"))
    assert_equal(uninterrupted[0], saved_state(as_path("gs://runs/killed")))


@pytest.mark.slow
def test_an_unfinished_checkpoint_is_ignored(bucket, killed, uninterrupted):
    done = folder(bucket, "killed") / "checkpoints" / "24" / "commit_success.txt"
    content = done.read_bytes()
    done.unlink()
    try:
        assert int(open_run(as_path("gs://runs/killed")).state.step) == 16
    finally:
        done.write_bytes(content)


@pytest.mark.parametrize(
    ("path", "denied", "message"),
    [
        ("gs://absent/a", None, "missing bucket gs://absent; create it by `gcloud storage buckets"),
        (
            "gs://runs/a",
            "storage.objects.create",
            "missing permission storage.objects.create for gs://runs",
        ),
        (
            "gs://runs/a",
            "storage.buckets.get",
            "missing permission storage.buckets.get for gs://runs; grant",
        ),
        ("s3://runs/a", None, "invalid path 's3://runs/a': expected a path on disk or gs://"),
        ("gs:/runs/a", None, "invalid path 'gs:/runs/a': expected a path on disk or gs://"),
    ],
)
def test_an_unusable_bucket_is_refused(bucket, path, denied, message):
    if denied:
        bucket.objects.deny("runs", denied)
    try:
        with pytest.raises(UserError) as error:
            as_path(path, write=True)
    finally:
        bucket.objects.allow("runs")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_reading_needs_no_write_permission(bucket):
    bucket.objects.deny("runs", "storage.objects.create", "storage.objects.delete")
    try:
        as_path("gs://runs/a")
    finally:
        bucket.objects.allow("runs")


def test_new_files_of_other_processes_are_listed(bucket):
    path = as_path("gs://runs/seen")
    assert not (path / "a").exists() and not path.exists()
    folder(bucket, "seen").mkdir()
    (folder(bucket, "seen") / "a").write_text("1")
    assert [one.name for one in path.iterdir()] == ["a"]
    (folder(bucket, "seen") / "b").write_text("2")
    assert (path / "b").read_text() == "2"
    assert sorted(one.name for one in path.iterdir()) == ["a", "b"]


def test_without_gcsfs_the_error_names_the_extra_to_install(bucket, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r'pip install -e "\.\[tpu\]"'):
        as_path("gs://runs/a")


def call(name, *arguments, **environment):
    command = [sys.executable, "-m", f"research.{name}", *map(str, arguments)]
    given = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"} | environment
    return subprocess.run(command, env=given, capture_output=True, text=True)


@pytest.mark.slow
def test_without_a_login_training_does_not_start(bucket, tmp_path, monkeypatch):
    for name in bucket.environment:
        monkeypatch.delenv(name)
    nobody = {"CLOUDSDK_CONFIG": str(tmp_path), "NO_GCE_CHECK": "true"}
    done = call("train", DIGITS, "--workdir=gs://runs/a", **nobody)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: cannot open gs://runs: missing login")
    assert line.endswith("`gcloud auth application-default login`")


@pytest.mark.slow
def test_commands_use_a_bucket_that_returns_errors(bucket, tmp_path):
    """A training is killed and resumed; every fortieth request to the bucket fails."""
    bucket.fail_every(40)
    try:
        train = [sys.executable, "-m", "research.train", DIGITS, *SHORT, "--workdir=gs://runs/busy"]
        environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
        begun = subprocess.Popen(train, env=environment, stderr=subprocess.PIPE)
        saved = folder(bucket, "busy") / "checkpoints" / "16" / "commit_success.txt"
        while begun.poll() is None and not saved.exists():
            time.sleep(0.01)
        begun.send_signal(signal.SIGKILL)
        begun.communicate()
        assert saved.exists()
        done = call(*("train", DIGITS, *SHORT), "--workdir=gs://runs/busy")
        assert done.returncode == 0, done.stderr
        assert "report  gs://runs/busy/report.html" in done.stderr
    finally:
        bucket.fail_every(0)
    assert call("train", DIGITS, *SHORT, f"--workdir={tmp_path / 'disk'}").returncode == 0
    assert_equal(saved_state(tmp_path / "disk"), saved_state(as_path("gs://runs/busy")))
    assert metrics(tmp_path / "disk") == metrics(as_path("gs://runs/busy"))

    kept = folder(bucket, "busy") / "evaluation_test.json"
    kept.unlink()
    results = json.loads(call("evaluate", "--workdir=gs://runs/busy", "--json").stdout)
    assert results.pop("split") == "test"
    assert results == json.loads(kept.read_text())["metrics"]
    assert results == json.loads((tmp_path / "disk" / kept.name).read_text())["metrics"]
    image = tmp_path / "a.png"
    Image.fromarray(Digits().open("test").arrays["image"][0, ..., 0]).save(image)
    rows = [
        call("predict", f"--workdir={one}", image).stdout
        for one in ("gs://runs/busy", tmp_path / "disk")
    ]
    assert rows[0] == rows[1] and "a.png" in rows[0]
    done = call("report", f"--workdir=gs://runs/busy,{tmp_path / 'disk'}")
    assert done.stdout == "gs://runs/busy_vs_disk.html\n"
    assert "2 runs" in folder(bucket, "busy_vs_disk.html").read_text()
    events = list(folder(bucket, "busy").joinpath("tensorboard").iterdir())
    assert len(events) == 2 and all(file.stat().st_size > 0 for file in events)


@pytest.mark.slow
def test_tfds_data_sets_are_read_from_a_bucket(bucket):
    TinyImages(data_dir=folder(bucket, "tfds"), file_format="array_record").download_and_prepare()
    code = """
from research.data.tfds import TFDSSource
records = TFDSSource("tiny_images").records("train")
print(sorted(record["label"] for record in records.__getitems__(range(len(records)))))
"""
    environment = os.environ | {"TFDS_DATA_DIR": "gs://runs/tfds"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True)
    assert json.loads(done.stdout) == sorted(number % 3 for number in range(20)), done.stderr


@pytest.mark.slow
def test_a_damaged_checkpoint_in_a_bucket_is_renamed(bucket, experiment, killed, uninterrupted):
    """The previous one is restored, and the run ends with the same bits."""
    step = folder(bucket, "killed") / "checkpoints" / "24"
    largest = max(step.glob("state/**/d/*"), key=lambda file: file.stat().st_size)
    data = bytearray(largest.read_bytes())
    data[len(data) // 2] ^= 1
    largest.write_bytes(data)
    run, trained = Trainer(experiment, as_path("gs://runs/killed")).train()
    assert trained
    assert_equal(uninterrupted[0].inference, run.state)
    assert_equal(uninterrupted[0], saved_state(as_path("gs://runs/killed")))
    assert folder(bucket, "killed").joinpath("unreadable_checkpoint_24").is_dir()


@pytest.mark.slow
def test_a_run_of_two_processes_in_a_bucket_opens_in_one(bucket):
    first, second = two_processes("gs://runs/two", {"fsdp": 4})
    assert first == second
    run = open_run(as_path("gs://runs/two"))
    results, _ = evaluate(run.program, run.state, run.program.task.dataset("test"))
    assert results["loss"] == pytest.approx(first["loss"], rel=1e-4)
    assert [line["step"] for line in read_metrics(run.workdir)] == [2, 4, 6, 6]
