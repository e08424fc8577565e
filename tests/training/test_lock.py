import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from etils import epath

from research.common.errors import UserError
from research.training.lock import WorkdirLock
from research.training.loop import Trainer

ROOT = Path(__file__).parents[2]
HOLDER = """
import sys
from pathlib import Path
from research.training.lock import WorkdirLock
lock = WorkdirLock(Path(sys.argv[1]))
print("locked", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the lock of a workdir."""
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "run")]
    process = subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "locked\n"
    with process:
        yield process
        process.kill()


def test_a_workdir_is_locked_until_its_process_is_killed(holder, tmp_path, experiment):
    owner = f"process {holder.pid} on {socket.gethostname()}"
    with pytest.raises(UserError, match=f"run is in use by {owner}; wait for its end, or choose"):
        Trainer(experiment, tmp_path / "run")
    assert [file.name for file in (tmp_path / "run").iterdir()] == ["lock"]
    holder.kill()
    holder.wait()
    Trainer(experiment, tmp_path / "run")
    assert (tmp_path / "run" / "lock").read_text().startswith(f"process {os.getpid()} on ")


def test_the_lock_ends_with_its_object(tmp_path):
    lock = WorkdirLock(tmp_path)
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    run = {"cwd": ROOT, "input": "", "capture_output": True, "text": True}
    assert f"is in use by process {os.getpid()} " in subprocess.run(command, **run).stderr
    del lock
    assert subprocess.run(command, **run).stdout == "locked\n"


def test_the_lock_ends_with_the_last_of_several_objects_of_a_process(tmp_path):
    """As in a notebook whose cell builds a trainer again."""
    first, second = WorkdirLock(tmp_path), WorkdirLock(tmp_path)
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    run = {"cwd": ROOT, "input": "", "capture_output": True, "text": True}
    del first
    assert f"is in use by process {os.getpid()} " in subprocess.run(command, **run).stderr
    del second
    assert subprocess.run(command, **run).stdout == "locked\n"


def test_a_workdir_that_was_removed_and_created_again_is_locked_again(tmp_path):
    lock = WorkdirLock(tmp_path / "run")
    shutil.rmtree(tmp_path / "run")
    again = WorkdirLock(tmp_path / "run")
    assert (tmp_path / "run" / "lock").read_text().startswith(f"process {os.getpid()} on ")
    del lock, again


def test_only_the_first_process_of_a_training_locks(tmp_path, monkeypatch):
    monkeypatch.setattr("jax.process_index", lambda: 1)
    WorkdirLock(tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_bucket_is_not_locked():
    WorkdirLock(epath.Path("gs://absent/run"))
