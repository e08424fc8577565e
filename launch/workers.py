"""The workers of a slice, as seen from the laptop: what is run there, and what they answer."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from launch.cloud import Cloud, Resources
from launch.gcloud import Laptop
from launch.plan import Plan

# Everything on a machine is root's, since its first boot begins it; who comes through SSH is not.
ROOT = "R=${POLYMATH_ROOT:-/var/lib/polymath}; S=; [ $(id -u) = 0 ] || S='sudo -n'"
AGENT = "$S python3 $R/code/launch/worker/agent.py"
BEGIN = Path(__file__).parent / "worker" / "begin.sh"
SSH_SECONDS = 120.0
SETUP_SECONDS = 1800.0


@dataclass(frozen=True)
class Reply:
    """What a worker answers when it is polled."""

    state: str
    """unborn: the machine has not started its timer; bare: it has, and is being set up; broken: it
    could not be; then the agent's idle, starting, running, finished, failed and stopped."""

    rank: int = -1
    """Of the worker in all slices; -1: it does not know yet."""

    step: int = 0
    """The last optimizer step it began."""

    born: float = 0.0
    """When its machine started, in seconds since 1970; 0: unknown."""

    deadline: float = 0.0
    """When its time is over, in seconds since 1970; 0: unknown."""

    verdict: dict[str, Any] | None = None
    """How the training ended, the same on all workers."""

    offset: int = 0
    """Bytes of the log that have been read with this reply."""

    log: str = field(default="", repr=False)
    """New lines of the log."""


class Workers:
    """All workers of a plan."""

    def __init__(self, cloud: Cloud, laptop: Laptop):
        self._cloud, self._laptop = cloud, laptop
        self.errors = ""
        """What was said on the workers where the last command failed."""

        self.silent: set[int] = set()
        """The workers that did not answer when they were last polled."""

        self._reached = False

    def poll(self, resources: Resources, offsets: Mapping[int, int]) -> list[Reply]:
        """Asks all workers how they are, which renews their lease; those that answered, by rank."""
        said = self._run(poll_command(offsets), resources, SSH_SECONDS)
        replies = [_parse(text) for text in said]
        self.silent = {i for i, reply in enumerate(replies) if reply is None}
        return sorted((reply for reply in replies if reply), key=lambda reply: reply.rank)

    def begin(self, resources: Resources) -> None:
        """Sets all workers up and starts them; the next poll tells whether it worked."""
        self._run(begin_command(self._cloud.plan), resources, SETUP_SECONDS)

    def start(self, resources: Resources) -> None:
        """Starts the training on all workers; the next poll tells whether it worked."""
        self._run(start_command(self._cloud.plan), resources, SSH_SECONDS)

    def stop(self, resources: Resources, again: bool = False) -> None:
        """Stops the training on all workers, which lets it save.

        Args:
          resources: what there is.
          again: it is going to be started again, so this is not the end of the run.
        """
        command = f"{ROOT}; {AGENT} stop{' --again' if again else ''}"
        self._run(command, resources, SSH_SECONDS)

    def _run(self, command: str, resources: Resources, timeout: float) -> list[str]:
        commands, done = self._cloud.ssh(command, resources), []
        if not self._reached:  # a user's first SSH makes keys, which several at once would spoil
            done = self._laptop.run_at_once(commands[:1], timeout)
            self._reached = done[0].returncode == 0
        done += self._laptop.run_at_once(commands[len(done) :], timeout)
        self.errors = "\n".join(one.stderr.strip() for one in done if one.returncode)
        # What broke off is asked for again.
        return [one.stdout if one.returncode == 0 else "" for one in done]


def poll_command(offsets: Mapping[int, int]) -> str:
    """Asks a worker how it is, and for its log from where it was read to, by rank."""
    read = shlex.quote(json.dumps({str(rank): offset for rank, offset in offsets.items()}))
    return (
        f"{ROOT}; if [ -f $R/ready ]; then {AGENT} poll --offsets={read}; "
        """elif [ -f $R/broken ]; then echo '{"state": "broken"}'; $S tail -n 30 $R/begin.log; """
        """elif [ -f $R/deadman.json ]; then echo '{"state": "bare"}'; """
        """else echo '{"state": "unborn"}'; fi"""
    )


def begin_script(plan: Plan) -> str:
    """Sets a worker up, and starts it where there is something to run."""
    given = [code_place(plan.workdir), plan.data, json.dumps(job(plan)) if plan.arguments else ""]
    return f"set -- {shlex.join(given)}\n{BEGIN.read_text()}"


def begin_command(plan: Plan) -> str:
    """Does on a worker again what it did by itself on its first boot."""
    return f"{ROOT}; $S bash -c {shlex.quote(begin_script(plan))}"


def start_command(plan: Plan) -> str:
    """Starts the agent, which outlives this command."""
    return f"{ROOT}; {AGENT} start --job={shlex.quote(json.dumps(job(plan)))}"


def job(plan: Plan) -> dict[str, Any]:
    """What the agent is to run."""
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


def code_place(workdir: str) -> str:
    """Where the code of a run lies, so that every worker and every attempt gets the same."""
    return f"{workdir}/launch/code.tar.gz"


def left_place(plan: Plan, name: str) -> str:
    """Where the machines of this attempt leave what outlives them: `result.json`, the verdict, and
    `timer.json`, why the timer deleted them."""
    return f"{plan.workdir}/logs/attempt-{plan.attempt}/{name}"


def _parse(text: str) -> Reply | None:
    """A reply; None: it is cut off. SSH may have said something before it."""
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
