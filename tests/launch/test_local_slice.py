"""Several real processes on one machine; those of the fast tests run without JAX."""

import io
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from launch.local_slice import ROOT, Screen, next_attempt
from research.training.run import open_run
from tests.launch.failing import WAYS
from tests.launch.failures import alive

SCRIPT = ROOT / "launch" / "local_slice.py"
DIGITS = "--config=experiments/image_classification/digits_mlp.py"
FAST = ("killed_agent",)


def python(*arguments):
    """In a process of its own: this one holds JAX, which no process may be forked from."""
    return subprocess.run(
        [sys.executable, *map(str, arguments)], cwd=ROOT, capture_output=True, text=True
    )


def one_trial(way, *options):
    seed = f"--seed={list(WAYS).index(way)}"
    return python("-m", "tests.launch.failures", f"--ways={way}", "--trials=1", seed, *options)


@pytest.mark.parametrize("way", FAST)
def test_the_failed_process_is_reported_and_no_process_remains(way):
    done = one_trial(way, "--processes=3", "--plain")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_the_failed_process_of_four_jax_processes_is_reported(way):
    done = one_trial(way)
    assert done.returncode == 0, done.stdout + done.stderr


FOLLOWED = """\
import json, sys
from pathlib import Path
from launch.local_slice import ROOT, Slice, cpu_environment, follow
folder, *arguments = sys.argv[1:]
environment = cpu_environment(1) | {"PYTHONPATH": str(ROOT)}
print(json.dumps(follow(Slice(Path(folder), 2, arguments, environment), sys.stdout)))
"""


def test_each_line_has_its_process_index(tmp_path):
    code = "import os; print('a\\nb', os.environ['JAX_PROCESS_ID'])"
    *lines, verdict = python("-c", FOLLOWED, tmp_path, "-c", code).stdout.splitlines()
    assert json.loads(verdict)["outcome"] == "finished"
    assert sorted(lines) == ["[0] a", "[0] b 0", "[1] a", "[1] b 1"]


def test_after_an_error_of_the_user_only_what_came_before_it_is_shown():
    output = io.StringIO()
    screen = Screen(output)
    screen.show([(0, "[Gloo] Rank 0 is connected to 1 peer ranks"), (0, "step 1")])
    assert output.getvalue() == ""  # what the others say may come with the next look
    screen.show([(0, "step 2"), (1, "step 2"), (0, "error: the loss is nan")])
    screen.show([(1, "Traceback (most recent call last):")])
    screen.flush_before_errors()
    assert output.getvalue() == "[0] step 1\n[0] step 2\n"


def test_an_error_that_ends_nothing_is_shown_after_a_while(monkeypatch):
    monkeypatch.setattr("launch.local_slice.HOLD_SECONDS", 0)
    output = io.StringIO()
    screen = Screen(output)
    screen.show([(0, "error: cannot open the cache")])
    screen.show([(0, "step 1")])
    screen.show([])
    assert output.getvalue() == "[0] error: cannot open the cache\n[0] step 1\n"


def test_attempts_are_counted_in_the_workdir(tmp_path):
    assert next_attempt(None) == next_attempt(str(tmp_path)) == 1
    (tmp_path / "logs" / "attempt-9").mkdir(parents=True)
    (tmp_path / "logs" / "attempt-10").mkdir()
    assert next_attempt(str(tmp_path)) == 11


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ([], "error: missing arguments of the training; write `-- --config=... --workdir=..."),
        (["--processes=0", "--", DIGITS], "error: argument --processes: invalid value '0'"),
        (["--procs=2", "--", DIGITS], "error: unrecognized arguments: --procs=2"),
    ],
)
def test_bad_input_gets_one_line_and_exit_code_two(arguments, error):
    done = python(SCRIPT, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(error)
    assert len(done.stderr.splitlines()) == 1


def test_ctrl_c_stops_all(tmp_path):
    """The first asks, the second, where one does not listen, kills."""
    code = (
        "import signal, sys, time; sys.path.insert(0, '.'); from launch import local_slice as l; "
        "from pathlib import Path; "
        "deaf = 'import signal, time; signal.signal(15, signal.SIG_IGN); "
        'print("deaf", flush=True); time.sleep(1000)\'; '
        f"t = l.Slice(Path({str(tmp_path)!r}), 2, ['-c', deaf], l.cpu_environment(1)); "
        "l._stop_at_signals(t); l.follow(t, sys.stdout)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert sorted(process.stdout.readline() for _ in range(2)) == ["[0] deaf\n", "[1] deaf\n"]
    process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    process.wait(10)
    until = time.monotonic() + 5
    while alive(tmp_path) and time.monotonic() < until:
        time.sleep(0.05)
    assert alive(tmp_path) == []


@pytest.mark.slow
def test_an_error_in_the_config_is_one_line_and_leaves_nothing(tmp_path):
    before = set(Path(tempfile.gettempdir()).glob("polymath-*"))
    workdir = tmp_path / "run"
    size = ["--config.batch_size=63"]
    done = python(
        SCRIPT, "--processes=2", "--devices=2", "--", DIGITS, f"--workdir={workdir}", *size
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: config.batch_size: 63 is not divisible by 4")
    assert len(done.stderr.splitlines()) == 1
    assert not workdir.exists()
    assert set(Path(tempfile.gettempdir()).glob("polymath-*")) == before


@pytest.mark.slow
def test_a_failure_in_the_engine_waits_for_no_other_process(tmp_path):
    """In the middle of a training, between two checkpoints; nobody ends in order."""
    code = (
        "import os\n"
        "from research import train\n"
        "from research.common import cli\n"
        "from research.training.logging import TrainingLogger\n"
        "def fail(self, step, split, values):\n"
        "    raise ValueError('the first cause')\n"
        "if os.environ['JAX_PROCESS_ID'] == '1':\n"
        "    TrainingLogger.write = fail\n"
        "train.define_flags()\n"
        "cli.run(train.main, required=('config', 'workdir'))\n"
    )
    short = ["--config.log_every=12 steps", "--config.checkpoint_every=5 steps"]
    flags = [DIGITS, f"--workdir={tmp_path / 'run'}", *short]
    done = python("-c", FOLLOWED, tmp_path / "slice", "-c", code, *flags)
    verdict = json.loads(done.stdout.splitlines()[-1])
    assert (verdict["rank"], verdict["cause"]) == (1, "exit code 1")
    assert "ValueError: the first cause" in verdict["traceback"]
    assert open_run(tmp_path / "run").progress.step in (5, 10)  # the last may be unfinished


@pytest.mark.slow
def test_a_slice_trains_and_keeps_its_logs(tmp_path):
    short = ["--config.duration=2 epochs", "--config.log_every=10 steps"]
    workdir = tmp_path / "run"
    done = python(
        SCRIPT, "--processes=2", "--devices=2", "--", DIGITS, f"--workdir={workdir}", *short
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == "finished\n"
    assert "[0] step 10  train" in done.stdout
    assert open_run(workdir).progress.step == 26
    logs = sorted(path.name for path in (workdir / "logs" / "attempt-1").iterdir())
    assert logs == ["result.json", "worker-0.log", "worker-1.log"]


@pytest.mark.slow
def test_a_killed_launcher_leaves_no_process(tmp_path):
    process = subprocess.Popen(
        [sys.executable, str(SCRIPT), "--", DIGITS, f"--workdir={tmp_path / 'run'}"],
        cwd=ROOT,
        env=os.environ | {"TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        text=True,
    )
    process.stdout.readline()
    process.kill()
    until = time.monotonic() + 30
    while alive(tmp_path) and time.monotonic() < until:
        time.sleep(0.1)
    assert alive(tmp_path) == []
    assert open_run(tmp_path / "run").progress.step > 0  # it was saved in order
