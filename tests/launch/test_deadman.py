"""The timer as a real process, with a local metadata server and a delete command that writes."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from launch.worker.deadman import reason_to_delete
from tests.launch.twin.metadata import Metadata

QUICK = "import launch.worker.deadman as timer; timer.PERIOD = 0.1; timer.GRACE = 2; timer.main()"
ROOT = Path(__file__).parents[2]
YEARS = 1e9  # seconds


def test_the_time_limit_holds_with_a_valid_lease():
    assert reason_to_delete(3599, 0, hours=1, lease=3599, lease_seconds=60) is None
    reason = reason_to_delete(3601, 0, hours=1, lease=3601, lease_seconds=60)
    assert reason == "the limit of 1 hours is reached"


def test_an_expired_lease_deletes_the_slice():
    assert reason_to_delete(160, 0, hours=1, lease=100, lease_seconds=60) is None
    reason = reason_to_delete(161, 0, hours=1, lease=100, lease_seconds=60)
    assert reason == "the lease was not renewed for 60 seconds"


class Machine:
    """A folder and a metadata server, on which the timer is started as on a boot."""

    def __init__(self, folder, **plan):
        self.folder, self.deleted = folder, folder / "deleted"
        command = ["sh", "-c", f"date +%s.%N >> {shlex.quote(str(self.deleted))}"]
        plan = {"name": "run", "hours": 1, "lease_seconds": YEARS, "delete": [command]} | plan
        self.metadata = Metadata({"polymath": json.dumps(plan)})
        self.environment = os.environ | {
            "POLYMATH_ROOT": str(folder),
            "GCE_METADATA_HOST": self.metadata.address,
        }

    def boot(self):
        done = subprocess.run(
            [sys.executable, "-c", QUICK],
            cwd=ROOT,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=10,  # it goes to the background
        )
        assert done.returncode == 0, done.stderr
        self.wait_for(lambda: self.facts.get("pid") and self.is_alive())
        return done.stdout

    @property
    def facts(self):
        path = self.folder / "deadman.json"
        return json.loads(path.read_text()) if path.exists() else {}

    def is_alive(self):
        try:
            return Path(f"/proc/{self.facts['pid']}/cmdline").read_bytes() != b""
        except FileNotFoundError:
            return False

    def kill(self, number=signal.SIGKILL):
        os.kill(self.facts["pid"], number)
        self.wait_for(lambda: not self.is_alive())

    def wait_for(self, condition, seconds=10.0):
        until = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < until
            time.sleep(0.02)

    def deletions(self):
        text = self.deleted.read_text() if self.deleted.exists() else ""
        return [float(line) for line in text.split()]


@pytest.fixture
def machine(tmp_path):
    made = []

    def make(**plan):
        made.append(Machine(tmp_path, **plan))
        return made[-1]

    yield make
    for one in made:
        if one.facts and one.is_alive():
            one.kill()
        one.metadata.close()


@pytest.mark.slow
def test_it_repeats_the_deletion_after_the_time_limit(machine):
    """The lease is renewed all the while, and the first deletions are of no effect."""
    slice_ = machine(hours=0.5 / 3600, lease_seconds=YEARS)
    slice_.boot()
    slice_.wait_for(lambda: len(slice_.deletions()) == 3)
    first, second, third = slice_.deletions()
    born = float((slice_.folder / "born").read_text())
    assert 0.5 < first - born < 1.5
    assert second - first < third - second  # it asks less and less often
    assert slice_.facts["reason"] == "the limit of 0.000138889 hours is reached"


def test_it_deletes_after_the_lease_expires(machine):
    slice_ = machine(lease_seconds=0.5)
    slice_.boot()
    until = time.monotonic() + 1.5
    while time.monotonic() < until:
        (slice_.folder / "lease").touch()
        time.sleep(0.05)
    assert slice_.deletions() == []
    slice_.wait_for(slice_.deletions, seconds=2)
    assert slice_.facts["reason"] == "the lease was not renewed for 0.5 seconds"


def test_the_boot_time_is_stored_and_the_setup_runs_once(machine):
    begun = "echo begun >> $POLYMATH_ROOT/begun"
    slice_ = machine(hours=2, begin=begun)
    slice_.boot()
    before = slice_.facts
    assert before["deadline"] == before["born"] + 7200
    slice_.wait_for((slice_.folder / "begun").exists)
    slice_.kill(signal.SIGTERM)
    slice_.boot()
    after = slice_.facts
    assert after["pid"] != before["pid"]
    assert after["born"] == before["born"]
    time.sleep(0.3)
    assert (slice_.folder / "begun").read_text() == "begun\n"


def test_a_reboot_after_the_time_limit_deletes_immediately(machine):
    slice_ = machine(hours=1)
    (slice_.folder / "born").write_text(str(time.time() - 3700))
    slice_.boot()
    slice_.wait_for(slice_.deletions, seconds=2)


def test_there_is_one_timer_for_a_machine(machine):
    slice_ = machine()
    slice_.boot()
    pid = slice_.facts["pid"]
    assert "already running" in slice_.boot()
    assert slice_.facts["pid"] == pid


def test_the_training_is_asked_to_end_first(machine):
    slice_ = machine(hours=0.5 / 3600)
    path = slice_.folder / "supervisor.json"
    script = (
        "import signal, sys, time, pathlib\n"
        "def end(*_):\n"
        "    pathlib.Path(sys.argv[2]).write_text(str(time.time()))\n"
        "    sys.exit()\n"
        "signal.signal(signal.SIGTERM, end)\n"
        "time.sleep(60)"
    )
    agent = subprocess.Popen(
        [sys.executable, "-c", script, "agent.py", str(slice_.folder / "asked")]
    )
    path.write_text(json.dumps({"pid": agent.pid}))
    slice_.boot()
    slice_.wait_for(lambda: agent.poll() is not None)
    slice_.wait_for(slice_.deletions)
    assert float((slice_.folder / "asked").read_text()) < slice_.deletions()[0]


def test_a_test_folder_never_shuts_down_the_machine(machine):
    code = "import launch.worker.deadman as timer; print(timer.may_switch_off())"
    said = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=machine().environment,
        capture_output=True,
        text=True,
    )
    assert said.stdout == "False\n"
