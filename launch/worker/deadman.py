#!/usr/bin/env python3
"""The dead man's timer: deletes its slice when the time limit is reached or the lease expires.

It is the startup script of every VM, a single file without other dependencies. The metadata
attribute `polymath` contains the time limit, the commands that delete the slice, and the script of
the first boot. The timer runs in the background, once per VM, and again after a reboot.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import time
import urllib.request
from pathlib import Path
from typing import Any

DEFAULT_ROOT = "/var/lib/polymath"
ROOT = Path(os.environ.get("POLYMATH_ROOT", DEFAULT_ROOT))
PERIOD = 2.0  # seconds between checks
GRACE = 75.0  # seconds for the training to save a checkpoint and for its agent to copy the logs
LONGEST_PAUSE = 30.0  # seconds between attempts to delete
COMMAND_SECONDS = 60.0  # timeout of a delete command
REFUSALS = 20  # rounds of failed delete commands before the VM shuts down


def reason_to_delete(
    now: float, born: float, hours: float, lease: float, lease_seconds: float
) -> str | None:
    """Returns the reason to delete the slice, or None.

    Args:
      now: Unix time in seconds.
      born: Unix time of the VM's first boot.
      hours: the limit on the VM's lifetime.
      lease: Unix time of the last renewal of the lease.
      lease_seconds: the duration of the lease.
    """
    if now > born + hours * 3600:
        return f"the limit of {hours:g} hours is reached"
    if now > lease + lease_seconds:
        return f"the lease was not renewed for {lease_seconds:g} seconds"
    return None


def read_plan() -> dict[str, Any]:
    """Returns the plan in the metadata; retries until the metadata are readable."""
    host = os.environ.get("GCE_METADATA_HOST", "metadata.google.internal")
    url = f"http://{host}/computeMetadata/v1/instance/attributes/polymath"
    request = urllib.request.Request(url, headers={"Metadata-Flavor": "Google"})
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    while True:
        try:
            with direct.open(request, timeout=10) as answer:
                plan: dict[str, Any] = json.loads(answer.read().decode())
                return plan
        except (OSError, ValueError) as error:
            print(f"cannot read {url}: {error}", flush=True)
            time.sleep(PERIOD)


def first_boot() -> tuple[float, bool]:
    """Returns the Unix time of the first boot, stored on disk, and whether this is that boot."""
    path = ROOT / "born"
    try:
        return float(path.read_text()), False
    except (OSError, ValueError):
        born = time.time()
        _write(path, f"{born}\n")
        return born, True


def begin(command: str) -> None:
    """Starts the script of the first boot in the background; the timer ignores its failure."""
    with contextlib.suppress(OSError):
        subprocess.Popen(
            ["bash", "-c", command],
            env=_environment(),
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )


def wait_for_reason(plan: dict[str, Any], born: float) -> str:
    """Waits for a reason to delete the slice, and returns it."""
    hours, lease_seconds = float(plan["hours"]), float(plan["lease_seconds"])
    while True:
        reason = reason_to_delete(time.time(), born, hours, _lease(), lease_seconds)
        if reason:
            return reason
        time.sleep(PERIOD)


def save_status(plan: dict[str, Any]) -> None:
    """Uploads the timer's status to the workdir, for a launcher that attaches later."""
    if plan.get("workdir"):
        path = f"{plan['workdir']}/logs/attempt-{plan['attempt']}/timer.json"
        _run(["gcloud", "storage", "cp", "--quiet", str(ROOT / "deadman.json"), path])


def end_training() -> None:
    """Sends SIGTERM to the agent, and waits until it exits or the grace period ends."""
    try:
        pid = int(json.loads((ROOT / "supervisor.json").read_text())["pid"])
        command = Path(f"/proc/{pid}/cmdline")
        # Another process may have the PID by now; an exited process has no command line.
        if b"agent.py" not in command.read_bytes():
            return
        os.kill(pid, signal.SIGTERM)
        deadline = time.time() + GRACE
        while time.time() < deadline and command.read_bytes():
            time.sleep(0.2)
    except (OSError, ValueError, KeyError):
        return  # no training is running


def delete(commands: list[list[str]]) -> None:
    """Repeats the delete commands until this VM is deleted. Never returns."""
    pause, rounds = 1.0, 0
    while True:
        for command in commands:
            _run(command)
        rounds += 1
        if rounds >= REFUSALS and may_switch_off():
            _run(["shutdown", "-h", "now"])
        time.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE)


def may_switch_off() -> bool:
    """Returns whether this is a real VM instead of a test."""
    return os.geteuid() == 0 and str(ROOT) == DEFAULT_ROOT


def main() -> None:
    """Runs the timer in the background, unless one is running."""
    ROOT.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(PermissionError):
        ROOT.chmod(0o1777)  # SSH users write here
    lock = os.open(str(ROOT / "deadman.lock"), os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the child process inherits it
    except OSError:
        print("the dead man's timer is already running")
        return
    if os.fork():
        return
    _detach()
    born, is_first_boot = first_boot()
    _renew_lease()
    plan = read_plan()
    facts: dict[str, Any] = {
        "pid": os.getpid(),
        "born": born,
        "deadline": born + float(plan["hours"]) * 3600,
        "lease_seconds": float(plan["lease_seconds"]),
        "reason": None,
    }
    _write(ROOT / "deadman.json", json.dumps(facts) + "\n")
    save_status(plan)
    if is_first_boot and plan.get("begin"):
        begin(plan["begin"])
    facts["reason"] = wait_for_reason(plan, born)
    _write(ROOT / "deadman.json", json.dumps(facts) + "\n")
    print(f"deleting {plan.get('name')}: {facts['reason']}", flush=True)
    end_training()
    save_status(plan)
    delete(plan["delete"])


def _lease() -> float:
    try:
        return (ROOT / "lease").stat().st_mtime
    except OSError:
        _renew_lease()
        return time.time()


def _renew_lease() -> None:
    """Renews the lease at boot; afterwards the agent does, as any user."""
    (ROOT / "lease").touch()
    with contextlib.suppress(PermissionError):
        (ROOT / "lease").chmod(0o666)


def _detach() -> None:
    os.setsid()
    log = os.open(str(ROOT / "deadman.log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for target, source in ((0, nothing), (1, log), (2, log)):
        os.dup2(source, target)


def _run(command: list[str]) -> None:
    """Runs a command that may fail, and logs its exit code."""
    try:
        code = subprocess.run(
            command, env=_environment(), stdin=subprocess.DEVNULL, timeout=COMMAND_SECONDS
        ).returncode
        print(f"exit code {code}: {' '.join(command)}", flush=True)
    except Exception as error:  # the next command may succeed
        print(f"{error}: {command}", flush=True)


def _environment() -> dict[str, str]:
    """Returns a login environment, in which gcloud and its configuration are found."""
    path = os.environ.get("PATH", "") + ":/snap/bin:/usr/local/bin:/usr/bin:/bin"
    return {"HOME": "/root", **os.environ, "PATH": path}


def _write(path: Path, text: str) -> None:
    """Writes a file atomically, since the VM may be deleted at any time."""
    unfinished = path.with_name(f"{path.name}.{os.getpid()}")
    unfinished.write_text(text)
    unfinished.chmod(0o644)
    unfinished.replace(path)


if __name__ == "__main__":
    main()
