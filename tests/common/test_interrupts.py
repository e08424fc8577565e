"""Ctrl-C, in processes of their own."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LINE = "interrupted; the same command starts it again\n"
NOTICE = "saving at the end of this step or evaluation; Ctrl-C again ends at once\n"
BEGIN = """\
import hashlib, sys, threading, time
from research.common import interrupts
interrupts._GRACE_SECONDS = 0.1
"""
# Native code that no signal interrupts, as a compilation; it takes about a minute.
NATIVE = 'hashlib.pbkdf2_hmac("sha256", b"", b"", 10**8)'


def start(code):
    """Starts a process, and returns it when it has printed a line."""
    process = subprocess.Popen(
        [sys.executable, "-c", BEGIN + code],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "ready\n"
    return process


def end(process):
    """Returns exit code and error output of a process that ends by itself."""
    _, error = process.communicate(timeout=10)
    return process.returncode, error


@pytest.mark.parametrize(
    "work",
    [
        "time.sleep(60)",
        NATIVE,
        "threading.Thread(target=time.sleep, args=(60,)).start(); time.sleep(60)",
    ],
)
def test_a_command_ends_with_one_line(work):
    process = start(
        f"with interrupts.ended_by_interrupts():\n    print('ready', flush=True); {work}\n"
    )
    process.send_signal(signal.SIGINT)
    assert end(process) == (130, LINE)


def test_cleanup_runs_first(tmp_path):
    code = f"""
from research.common.files import new_folder
from pathlib import Path
with interrupts.ended_by_interrupts(), new_folder(Path({str(tmp_path)!r}, "export")):
    print("ready", flush=True)
    time.sleep(60)
"""
    process = start(code)
    process.send_signal(signal.SIGINT)
    assert end(process) == (130, LINE)
    assert not any(tmp_path.iterdir())


def test_an_interrupt_that_python_drops_prints_no_traceback():
    """As in a callback of the garbage collector."""
    code = """
class Slow:
    def __del__(self):
        print("ready", flush=True)
        time.sleep(60)
with interrupts.ended_by_interrupts():
    value = Slow()
    del value
    time.sleep(60)
"""
    process = start(code)
    process.send_signal(signal.SIGINT)
    assert end(process) == (130, LINE)


def test_the_first_ctrl_c_waits_for_a_training_that_saves():
    code = """
import signal
signal.signal(signal.SIGINT, lambda *_: None)
interrupts.SAVING.set()
with interrupts.ended_by_interrupts():
    print("ready", flush=True)
    time.sleep(60)
"""
    process = start(code)
    process.send_signal(signal.SIGINT)
    time.sleep(0.01)
    process.send_signal(signal.SIGINT)  # the same press, passed on by a wrapper
    assert process.stderr.readline() == NOTICE
    time.sleep(0.6)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert end(process) == (130, LINE)


def test_imports_of_a_command_end_without_a_traceback():
    process = start(
        "sys.argv[0] = '-m'\n"  # as Python sets it while it imports the package of a command
        "for name in [name for name in sys.modules if name.startswith('research')]:\n"
        "    del sys.modules[name]\n"
        "import research\n"
        "print('ready', flush=True); time.sleep(60)\n"
    )
    process.send_signal(signal.SIGINT)
    assert end(process) == (130, LINE)
