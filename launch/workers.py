"""The workers of a slice, over SSH: the commands that run there and the parsed replies."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from launch.cloud import Cloud, Resources
from launch.gcloud import LocalHost
from launch.plan import Plan

# All files on a worker belong to root, which sets it up at its first boot; SSH users need sudo.
ROOT = "R=${POLYMATH_ROOT:-/var/lib/polymath}; S=; [ $(id -u) = 0 ] || S='sudo -n'"
AGENT = "$S python3 $R/code/launch/worker/agent.py"
BEGIN = Path(__file__).parent / "worker" / "begin.sh"
SSH_SECONDS = 120.0
SETUP_SECONDS = 1800.0


@dataclass(frozen=True)
class Reply:
    """A worker's reply to a poll."""

    state: str
    """booting: the startup script has not started; setup: the worker is being set up; broken: the
    setup failed; afterwards the agent's state: idle, starting, running, finished, failed, stopped.
    """

    rank: int = -1
    """The worker's index over all slices; -1 if it is not known yet."""

    step: int = 0
    """The training step that began last."""

    born: float = 0.0
    """Unix time of the VM's first boot; 0 if unknown."""

    deadline: float = 0.0
    """Unix time at which the VM deletes itself; 0 if unknown."""

    verdict: dict[str, Any] | None = None
    """The result of the training, the same on all workers; None while it runs."""

    offset: int = 0
    """The end of this reply's part of the log, in bytes."""

    log: str = field(default="", repr=False)
    """New lines of the log."""


class Workers:
    """All workers of a plan."""

    def __init__(self, cloud: Cloud, local_host: LocalHost):
        self._cloud, self._local_host = cloud, local_host
        self.errors = ""
        """The standard error of the workers on which the last command failed."""

        self.silent: set[int] = set()
        """The workers that did not reply to the last poll."""

        self._reached = False

    def poll(self, resources: Resources, offsets: Mapping[int, int]) -> list[Reply]:
        """Polls all workers, which renews their lease; returns the replies sorted by rank."""
        outputs = self._run(poll_command(offsets), resources, SSH_SECONDS)
        replies = [_parse(text) for text in outputs]
        self.silent = {i for i, reply in enumerate(replies) if reply is None}
        return sorted((reply for reply in replies if reply), key=lambda reply: reply.rank)

    def begin(self, resources: Resources) -> None:
        """Sets up all workers and starts the training; the next poll returns the result."""
        self._run(begin_command(self._cloud.plan), resources, SETUP_SECONDS)

    def start(self, resources: Resources) -> None:
        """Starts the training on all workers; the next poll returns the result."""
        self._run(start_command(self._cloud.plan), resources, SSH_SECONDS)

    def stop(self, resources: Resources, again: bool = False) -> None:
        """Stops the training on all workers after a checkpoint.

        Args:
          resources: the resources of the plan.
          again: whether the training will be restarted, so that the run has not ended.
        """
        command = f"{ROOT}; {AGENT} stop{' --again' if again else ''}"
        self._run(command, resources, SSH_SECONDS)

    def _run(self, command: str, resources: Resources, timeout: float) -> list[str]:
        commands, done = self._cloud.ssh(command, resources), []
        if not self._reached:  # the first SSH creates keys, which parallel commands would corrupt
            done = self._local_host.run_parallel(commands[:1], timeout)
            self._reached = done[0].returncode == 0
        done += self._local_host.run_parallel(commands[len(done) :], timeout)
        self.errors = "\n".join(one.stderr.strip() for one in done if one.returncode)
        # The offset of an interrupted reply does not advance, so the next poll repeats it.
        return [one.stdout if one.returncode == 0 else "" for one in done]


def poll_command(offsets: Mapping[int, int]) -> str:
    """Returns the command that polls a worker, with the log offset in bytes of each rank."""
    read = shlex.quote(json.dumps({str(rank): offset for rank, offset in offsets.items()}))
    return (
        f"{ROOT}; if [ -f $R/ready ]; then {AGENT} poll --offsets={read}; "
        """elif [ -f $R/broken ]; then echo '{"state": "broken"}'; $S tail -n 30 $R/begin.log; """
        """elif [ -f $R/deadman.json ]; then echo '{"state": "setup"}'; """
        """else echo '{"state": "booting"}'; fi"""
    )


def begin_script(plan: Plan) -> str:
    """Returns the script that sets up a worker and starts its training, if the plan has one."""
    given = [code_path(plan.workdir), plan.data, json.dumps(job(plan)) if plan.arguments else ""]
    return f"set -- {shlex.join(given)}\n{BEGIN.read_text()}"


def begin_command(plan: Plan) -> str:
    """Returns the command that repeats the setup of the first boot."""
    return f"{ROOT}; $S bash -c {shlex.quote(begin_script(plan))}"


def start_command(plan: Plan) -> str:
    """Returns the command that starts the agent in the background."""
    return f"{ROOT}; {AGENT} start --job={shlex.quote(json.dumps(job(plan)))}"


def job(plan: Plan) -> dict[str, Any]:
    """Returns the agent's job."""
    return {
        "name": plan.name,
        "attempt": plan.attempt,
        "arguments": ["-m", "research.train", *plan.arguments, f"--workdir={plan.workdir}"],
        "workdir": plan.workdir,
        "environment": {},
        "stall_seconds": plan.stall_minutes * 60,
        "grace_seconds": 60,
        "hosts": None,
    }


def code_path(workdir: str) -> str:
    """Returns the path of the code, which all workers and attempts of a run share."""
    return f"{workdir}/launch/code.tar.gz"


def attempt_path(plan: Plan, name: str) -> str:
    """Returns the path of a file that outlives the VMs of an attempt.

    `result.json` is the verdict, and `timer.json` the status of the dead man's timer.
    """
    return f"{plan.workdir}/logs/attempt-{plan.attempt}/{name}"


def _parse(text: str) -> Reply | None:
    """Parses a reply, which messages of SSH may precede; None if it is truncated."""
    for number, line in enumerate(lines := text.splitlines(keepends=True)):
        if not line.startswith('{"'):
            continue
        try:
            header = json.loads(line)
        except ValueError:
            return None
        known = {key: header[key] for key in Reply.__annotations__ if header.get(key) is not None}
        if "state" not in known:
            continue
        return Reply(**known, log="".join(lines[number + 1 :]))
    return None
