"""The workers of a slice, as seen from the laptop: what is run there, and what they answer."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from launch.cloud import Cloud, Resources
from launch.gcloud import Laptop
from launch.plan import Plan

ROOT = "R=${POLYMATH_ROOT:-/var/lib/polymath}"
AGENT = "python3 $R/code/launch/worker/agent.py"
SSH_SECONDS = 120.0
SETUP_SECONDS = 1800.0


@dataclass(frozen=True)
class Reply:
    """What a worker answers when it is polled."""

    state: str
    """unborn: the machine has not started its timer; bare: it has no code yet; then the agent's
    idle, starting, running, finished, failed and stopped."""

    rank: int = -1
    """Of the worker in all slices; -1: it does not know yet."""

    step: int = 0
    """The last optimizer step it began."""

    born: float = 0.0
    """When its machine started, in seconds since 1970; 0: unknown."""

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

    def poll(self, resources: Resources, offsets: Mapping[int, int]) -> list[Reply]:
        """Asks all workers how they are, which renews their lease; those that answered, by rank."""
        said = self._run(poll_command(offsets), resources, SSH_SECONDS)
        return sorted((reply for text in said if (reply := _parse(text))), key=lambda r: r.rank)

    def setup(self, resources: Resources) -> None:
        """Brings code and environment to all workers; the next poll tells whether it worked."""
        self._run(setup_command(self._cloud.plan), resources, SETUP_SECONDS)

    def start(self, resources: Resources) -> None:
        """Starts the training on all workers; the next poll tells whether it worked."""
        self._run(start_command(self._cloud.plan), resources, SSH_SECONDS)

    def stop(self, resources: Resources) -> None:
        """Stops the training on all workers, which lets it save."""
        self._run(f"{ROOT}; {AGENT} stop", resources, SSH_SECONDS)

    def _run(self, command: str, resources: Resources, timeout: float) -> list[str]:
        done = self._laptop.run_at_once(self._cloud.ssh(command, resources), timeout)
        self.errors = "\n".join(one.stderr.strip() for one in done if one.returncode)
        return [one.stdout for one in done]


def poll_command(offsets: Mapping[int, int]) -> str:
    """Asks a worker how it is, and for its log from where it was read to, by rank."""
    read = shlex.quote(json.dumps({str(rank): offset for rank, offset in offsets.items()}))
    return (
        f"{ROOT}; if [ -f $R/ready ]; then {AGENT} poll --offsets={read}; "
        """elif [ -f $R/deadman.json ]; then touch $R/lease; echo '{"state": "bare"}'; """
        """else echo '{"state": "unborn"}'; fi"""
    )


def setup_command(plan: Plan) -> str:
    """Unpacks the code that lies in the run's folder, and makes the environment."""
    code = shlex.quote(code_place(plan.workdir))
    data = shlex.quote(plan.data)
    return (
        f"{ROOT}; set -e; rm -rf $R/ready $R/code; mkdir -p $R/code; "
        f"gcloud storage cp {code} $R/code.tar.gz --quiet; tar -xzf $R/code.tar.gz -C $R/code; "
        f"bash $R/code/launch/worker/install.sh {data}"
    )


def start_command(plan: Plan) -> str:
    """Starts the agent, which outlives this command."""
    job = {
        "name": plan.name,
        "attempt": plan.attempt,
        "arguments": ["-m", "research.train", *plan.arguments, f"--workdir={plan.workdir}"],
        "workdir": plan.workdir,
        "environment": {},
        "stall_seconds": plan.stall_minutes * 60,
        "grace_seconds": 60,
        "hosts": None,
    }
    return f"{ROOT}; {AGENT} start --job={shlex.quote(json.dumps(job))}"


def code_place(workdir: str) -> str:
    """Where the code of a run lies, so that every worker and every attempt gets the same."""
    return f"{workdir}/launch/code.tar.gz"


def result_place(plan: Plan) -> str:
    """Where the workers leave the verdict, which outlives them."""
    return f"{plan.workdir}/logs/attempt-{plan.attempt}/result.json"


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
        return Reply(**known, log="".join(lines[number + 1 :]))
    return None
