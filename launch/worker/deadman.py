#!/usr/bin/env python3
"""The dead man's timer: deletes the slice it runs on when its hours are over or nobody watches.

It is the startup script of every VM, sent alone as metadata, so it needs nothing beside itself. The
metadata attribute `polymath` tells it how long the slice may live, which commands delete it, and
what the machine does by itself when it boots for the first time. The timer runs in the background,
once per machine, and goes on over reboots.
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
PERIOD = 2.0  # seconds between looks at the clock
GRACE = 75.0  # seconds that the training has to save itself, and its agent to copy the logs
LONGEST_PAUSE = 30.0  # seconds between attempts to delete
COMMAND_SECONDS = 60.0  # after which a delete command counts as refused
REFUSALS = 20  # rounds of refused deletes before the machine is switched off


def reason_to_delete(
    now: float, born: float, hours: float, lease: float, lease_seconds: float
) -> str | None:
    """Why the slice must go, or None.

    Args:
      now: unix time, as all times here.
      born: when the machine first booted.
      hours: how long it may live.
      lease: when somebody last showed that the machine is wanted.
      lease_seconds: how long that counts.
    """
    if now > born + hours * 3600:
        return f"its {hours:g} hours are over"
    if now > lease + lease_seconds:
        return f"nobody has renewed its lease for {lease_seconds:g} seconds"
    return None


def read_plan() -> dict[str, Any]:
    """The plan in the metadata; waits for as long as the metadata cannot be read."""
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
    """Unix time of the machine's first boot, remembered on its disk, and whether this is it."""
    path = ROOT / "born"
    try:
        return float(path.read_text()), False
    except (OSError, ValueError):
        born = time.time()
        _write(path, f"{born}\n")
        return born, True


def begin(command: str) -> None:
    """Starts what the machine does by itself, beside the timer, which goes on if it cannot."""
    with contextlib.suppress(OSError):
        subprocess.Popen(
            ["bash", "-c", command],
            env=_environment(),
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )


def wait_for_reason(plan: dict[str, Any], born: float) -> str:
    """Waits until there is a reason to delete, and returns it."""
    hours, lease_seconds = float(plan["hours"]), float(plan["lease_seconds"])
    while True:
        reason = reason_to_delete(time.time(), born, hours, _lease(), lease_seconds)
        if reason:
            return reason
        time.sleep(PERIOD)


def save_status(plan: dict[str, Any]) -> None:
    """Leaves what it knows in the run's folder, for a laptop that was away."""
    if plan.get("workdir"):
        path = f"{plan['workdir']}/logs/attempt-{plan['attempt']}/timer.json"
        _run(["gcloud", "storage", "cp", "--quiet", str(ROOT / "deadman.json"), path])


def end_training() -> None:
    """Asks the agent to end its training, and gives it a short time to."""
    try:
        pid = int(json.loads((ROOT / "supervisor.json").read_text())["pid"])
        command = Path(f"/proc/{pid}/cmdline")
        # The number may have gone to another process since; a dead process has no command.
        if b"agent.py" not in command.read_bytes():
            return
        os.kill(pid, signal.SIGTERM)
        deadline = time.time() + GRACE
        while time.time() < deadline and command.read_bytes():
            time.sleep(0.2)
    except (OSError, ValueError, KeyError):
        return  # nothing trains here


def delete(commands: list[list[str]]) -> None:
    """Runs the delete commands until one of them takes this machine away. Never returns."""
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
    """Whether this is a machine of its own and not a test's folder on somebody's machine."""
    return os.geteuid() == 0 and str(ROOT) == DEFAULT_ROOT


def main() -> None:
    """Goes to the background and watches, unless a timer runs already."""
    ROOT.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(PermissionError):
        ROOT.chmod(0o1777)  # whoever comes through SSH works here
    lock = os.open(str(ROOT / "deadman.lock"), os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the child keeps it
    except OSError:
        print("the dead man's timer runs already")
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
    """Counts from this boot; later it is the agent, under any user, that renews the lease."""
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
    """Runs a command that may fail; its output goes into the log."""
    try:
        code = subprocess.run(
            command, env=_environment(), stdin=subprocess.DEVNULL, timeout=COMMAND_SECONDS
        ).returncode
        print(f"exit code {code}: {' '.join(command)}", flush=True)
    except Exception as error:  # whatever is wrong with it, the next one may do
        print(f"{error}: {command}", flush=True)


def _environment() -> dict[str, str]:
    """That of a login, where gcloud is found and finds its settings."""
    path = os.environ.get("PATH", "") + ":/snap/bin:/usr/local/bin:/usr/bin:/bin"
    return {"HOME": "/root", **os.environ, "PATH": path}


def _write(path: Path, text: str) -> None:
    """In one stroke: the machine may vanish at any moment."""
    unfinished = path.with_name(f"{path.name}.{os.getpid()}")
    unfinished.write_text(text)
    unfinished.chmod(0o644)
    unfinished.replace(path)


if __name__ == "__main__":
    main()
