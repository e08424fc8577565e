"""The files for SkyPilot and xpk do what they say, as far as that shows without the two."""

import os
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml

from launch.accelerators import parse

ROOT = Path(__file__).parents[2]
TASK = yaml.safe_load((ROOT / "launch" / "polymath.sky.yaml").read_text())
PRINT = """#!/bin/sh
for word in "$@"; do echo "$word"; done
env | grep -E "^JAX_(COORDINATOR_ADDRESS|NUM_PROCESSES|PROCESS_ID)=" || true
"""


def stand_in(folder: Path, name: str, script: str = PRINT) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(script)
    (folder / name).chmod(0o755)


def run(argv, home, **environment):
    environment = os.environ | {"HOME": str(home)} | environment
    environment["PATH"] = f"{home}/bin:{environment['PATH']}"
    return subprocess.run(argv, env=environment, cwd=ROOT, capture_output=True, text=True)


def test_skypilot_asks_for_a_slice_that_exists_with_its_software():
    resources = TASK["resources"]
    slice_ = parse(resources["accelerators"].removeprefix("tpu-"))
    assert resources["accelerator_args"]["runtime_version"] == slice_.runtime_version


def test_skypilot_trains_an_experiment_that_exists_in_the_bucket_that_was_named(tmp_path):
    stand_in(tmp_path / "polymath" / "bin", "python")
    where = {"SKYPILOT_NODE_IPS": "10.0.0.7\n10.0.0.8\n10.0.0.9", "SKYPILOT_NODE_RANK": "2"}
    values = TASK["envs"] | {"WORKDIR": "gs://b/run", "FLAGS": "--config.seed=1 --alsologtostderr"}
    done = run(["bash", "-c", TASK["run"]], tmp_path, **where, **values)
    assert done.stdout.splitlines()[:6] == [
        "-m",
        "research.train",
        f"--config={TASK['envs']['CONFIG']}",
        "--workdir=gs://b/run",
        "--config.seed=1",
        "--alsologtostderr",
    ]
    assert (ROOT / TASK["envs"]["CONFIG"]).is_file()
    assert sorted(done.stdout.splitlines()[6:]) == [
        "JAX_COORDINATOR_ADDRESS=10.0.0.7:8476",
        "JAX_NUM_PROCESSES=3",
        "JAX_PROCESS_ID=2",
    ]


def test_skypilot_does_not_begin_without_a_bucket():
    assert TASK["envs"]["WORKDIR"] is None  # which SkyPilot asks for


def test_skypilot_installs_the_lock_file_into_the_python_that_trains(tmp_path):
    stand_in(tmp_path / "bin", "uv")
    done = run(["bash", "-c", TASK["setup"]], tmp_path)
    words = done.stdout.splitlines()
    assert done.returncode == 0, done.stderr
    assert words[:2] == ["venv", "--quiet"]
    assert str(tmp_path / "polymath") in words
    assert words[-5:] == [
        "--python",
        str(tmp_path / "polymath" / "bin" / "python"),
        "--require-hashes",
        "-r",
        "requirements-tpu.lock",
    ]
    assert (ROOT / words[-1]).is_file()


@pytest.fixture
def xpk(tmp_path, monkeypatch):
    """Runs xpk.sh with a stand-in for xpk, which shows its arguments and what it was sent."""
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    sent = 'for word in "$@"; do case $word in --script-dir=*) ls "${word#*=}";; esac; done\n'
    stand_in(tmp_path / "bin", "xpk", PRINT + sent)
    return lambda *arguments: run(["launch/xpk.sh", *arguments], tmp_path)


def test_xpk_gets_the_commit_and_a_command_whose_words_are_kept(xpk, tmp_path):
    training = ["--config=experiments/a.py", "--workdir=gs://b/run", "--config.name=two words;$x"]
    done = xpk("--cluster=c", "--workload=w", "--tpu-type=v6e-8", "--", *training)
    assert done.returncode == 0, done.stderr
    words = done.stdout.splitlines()
    assert words[:2] == ["workload", "create"]
    assert {"--cluster=c", "--workload=w", "--tpu-type=v6e-8"} < set(words)
    assert {"research", "experiments", "requirements.lock"} < set(words)
    assert ".git" not in words
    (command,) = [word.partition("=")[2] for word in words if word.startswith("--command=")]
    for name in ("pip", "python"):
        stand_in(tmp_path / "bin", name)
    ran = run(["bash", "-c", command], tmp_path).stdout.splitlines()
    assert ran[-5:] == ["-m", "research.train", *training]
    assert shlex.split(command)[-len(training) :] == training
    assert not list((tmp_path / "tmp").iterdir())


@pytest.mark.parametrize("arguments", [[], ["--cluster=c"], ["--cluster=c", "--"]])
def test_without_a_training_xpk_is_not_called(xpk, arguments):
    done = xpk(*arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) == 1
    assert not done.stdout
