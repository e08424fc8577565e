import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from research.common import interrupts
from research.common.errors import Interrupted
from research.training.logging import TrainingLogger
from research.training.loop import Trainer
from research.training.metrics import read_metrics
from research.training.run import open_run
from tests.training.states import saved_state

ROOT = Path(__file__).parents[2]
DIGITS = "--config=experiments/image_classification/digits_mlp.py"


def stop_at(step, monkeypatch, number=signal.SIGTERM):
    """Sends a signal to this process during a step."""
    steps = iter(range(1, 10_000))
    advance = TrainingLogger.advance

    def interrupt(self, loss):
        if next(steps) == step:
            os.kill(os.getpid(), number)
        advance(self, loss)

    monkeypatch.setattr(TrainingLogger, "advance", interrupt)


def values(workdir):
    times = ("seconds", "examples_per_second", "compilations")
    return [{k: v for k, v in line.items() if k not in times} for line in read_metrics(workdir)]


def assert_same_run(one, other):
    states = (jax.device_get(saved_state(workdir)) for workdir in (one, other))
    jax.tree.map(np.testing.assert_array_equal, *states)
    assert values(one) == values(other)


@pytest.fixture(scope="module")
def uninterrupted(experiment, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("uninterrupted")
    Trainer(experiment, workdir).train()
    return workdir


@pytest.mark.parametrize("step", [pytest.param(3, marks=pytest.mark.slow), 12])
def test_a_run_stopped_by_sigterm_resumes_to_the_same_bits(
    experiment, uninterrupted, tmp_path, monkeypatch, step
):
    with monkeypatch.context() as patch, pytest.raises(Interrupted, match=f"at step {step} and"):
        stop_at(step, patch)
        Trainer(experiment, tmp_path).train()
    assert open_run(tmp_path).progress.step == step
    run, trained = Trainer(experiment, tmp_path).train()
    assert trained
    assert int(run.state.step) == 24
    assert_same_run(uninterrupted, tmp_path)


def test_a_run_stopped_in_its_last_step_is_finished(experiment, tmp_path, monkeypatch):
    stop_at(24, monkeypatch)
    run, trained = Trainer(experiment, tmp_path).train()
    assert trained
    assert int(run.state.step) == 24


def test_ctrl_c_in_the_last_step_ends_the_command(experiment, tmp_path, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(Interrupted, match="at step 24 and saved"):
        stop_at(24, patch, signal.SIGINT)
        Trainer(experiment, tmp_path).train()
    run, trained = Trainer(experiment, tmp_path).train()
    assert (int(run.state.step), trained) == (24, False)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_the_run_is_saved_and_the_handler_restored(experiment, tmp_path, monkeypatch, number, code):
    before = signal.getsignal(number)
    stop_at(3, monkeypatch, number)
    with pytest.raises(Interrupted) as end:
        Trainer(experiment, tmp_path).train()
    assert end.value.exit_code == code
    assert open_run(tmp_path).progress.step == 3
    assert signal.getsignal(number) is before
    assert not interrupts.SAVING.is_set()


def lines_of(process):
    return iter(process.stderr.readline, "")


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_the_command_prints_the_step_of_its_checkpoint_and_resumes(tmp_path, number, code):
    command = [sys.executable, "-m", "research.train", DIGITS]
    command += ["--config.duration=20 epochs", "--config.log_every=10 steps"]
    environment = os.environ | {"XLA_FLAGS": ""}
    subprocess.run(
        [*command, f"--workdir={tmp_path / 'uninterrupted'}"], check=True, env=environment
    )
    command.append(f"--workdir={tmp_path / 'stopped'}")
    process = subprocess.Popen(command, stderr=subprocess.PIPE, env=environment, text=True)
    next(line for line in lines_of(process) if line.startswith("step 20"))
    sent = time.monotonic()
    process.send_signal(number)
    *_, last = lines_of(process)
    assert process.wait() == code
    assert time.monotonic() - sent < 5
    step = open_run(tmp_path / "stopped").progress.step
    assert last == f"stopped at step {step} and saved; the same command resumes\n"
    subprocess.run(command, check=True, env=environment)
    assert_same_run(tmp_path / "uninterrupted", tmp_path / "stopped")


BLOCKED = """
import hashlib
from research import train
from research.training.loop import Trainer
def block(self):
    print("blocked", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)  # native code, as a compilation is
Trainer.{method} = block
train.run_command()
"""


@pytest.mark.slow
@pytest.mark.parametrize("method", ["_check_memory", "_check_example", "_load_initial"])
def test_ctrl_c_before_the_first_step_leaves_nothing(tmp_path, method):
    process = subprocess.Popen(
        [
            sys.executable,
            "-c",
            BLOCKED.format(method=method),
            DIGITS,
            f"--workdir={tmp_path / 'a'}",
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=ROOT,
        text=True,
    )
    assert process.stdout.readline() == "blocked\n"
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=10)
    assert (process.returncode, error) == (130, "interrupted; the same command starts it again\n")
    assert not any(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_two_processes_stop_at_the_same_step_and_resume_to_the_same_bits(tmp_path, number):
    """Only one of them receives the signal."""
    slices = [sys.executable, "launch/local_slice.py", "--processes=2", "--", DIGITS]
    slices += ["--config.duration=20 epochs", "--config.log_every=10 steps"]

    def start(name):
        command = [*slices, f"--workdir={tmp_path / name}"]
        return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)

    assert start("uninterrupted").wait() == 0
    process = start("stopped")
    next(line for line in process.stdout if line.startswith("[0] step 20"))
    os.kill(training_of(process.pid)[1], number)
    text = process.stdout.read()
    assert process.wait() == 143
    step = open_run(tmp_path / "stopped").progress.step
    assert f"[0] stopped at step {step} and saved; the same command resumes\n" in text
    assert start("stopped").wait() == 0
    assert_same_run(tmp_path / "uninterrupted", tmp_path / "stopped")


def training_of(slice_pid):
    """Returns the PIDs of the training processes of a local slice by process index."""
    found = {}
    for agent in children(slice_pid):
        for training in children(agent):
            environment = Path(f"/proc/{training}/environ").read_bytes().split(b"\0")
            index = next(e for e in environment if e.startswith(b"JAX_PROCESS_ID="))
            found[int(index.split(b"=")[1])] = training
    return found


def children(pid):
    return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
