"""Runs gcloud's command lines, and tells from what they say what went wrong."""

from __future__ import annotations

import enum
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from research.common.errors import UserError

Argv = list[str]
PAUSE_SECONDS = 2.0  # between tries


class Kind(enum.Enum):
    """Why a command failed, as far as it matters to what is done next."""

    ABSENT = "there is no such resource"
    TAKEN = "the name is taken"
    CAPACITY = "the zone has no capacity now"
    QUOTA = "the project's quota does not allow it"
    LOGIN = "gcloud is not logged in"
    DENIED = "not permitted"
    DISABLED = "the API is not enabled"
    USAGE = "gcloud does not take this"
    TRANSIENT = "the cloud could not be reached, or not answer"
    OTHER = "for a reason that is not known here"


# What gcloud and the API say, in the order in which it is looked for: a refusal for want of
# capacity or quota comes under the same code.
_SAYS = (
    (Kind.LOGIN, r"gcloud auth login|UNAUTHENTICATED|not currently have an active account|reauth"),
    (Kind.DISABLED, r"SERVICE_DISABLED|has not been used in project|API .*not enabled"),
    (Kind.CAPACITY, r"no more capacity|RESOURCE_POOL_EXHAUSTED|nsufficient.*capacity|stockout"),
    (Kind.CAPACITY, r"not have enough resources|does not have enough capacity"),
    (Kind.TAKEN, r"ALREADY_EXISTS|already exists"),
    (Kind.ABSENT, r"NOT_FOUND|was not found|[Nn]ot found|matched no objects|does not exist"),
    (Kind.TRANSIENT, r"per minute"),  # a rate, which is not what a project may have
    (Kind.QUOTA, r"[Qq]uota|RESOURCE_EXHAUSTED"),
    (
        Kind.USAGE,
        r"INVALID_ARGUMENT|FAILED_PRECONDITION|unrecognized arguments|Invalid (value|choice)",
    ),
    (Kind.USAGE, r"argument --[\w-]+:"),
    (Kind.DENIED, r"PERMISSION_DENIED|does not have .*permission|HTTPError 403|Forbidden"),
    (Kind.TRANSIENT, r"UNAVAILABLE|INTERNAL|DEADLINE|ABORTED|HTTPError 5\d\d|\b429\b|timed out"),
    (Kind.TRANSIENT, r"[Cc]onnection|[Nn]etwork|Unable to reach|reset by peer|resolve host"),
)
_NAMES = re.compile(r"'[^']*'|\"[\w.-]+\"|projects/\S+")  # somebody's, which may be any words


class Completed(NamedTuple):
    """What a command left."""

    returncode: int
    stdout: str
    stderr: str


class GcloudError(Exception):
    """A command failed. `kind` is why, and `says` is how gcloud says it."""

    def __init__(self, argv: Argv, completed: Completed):
        said = " ".join(completed.stderr.split())
        self.kind, self.argv = kind_of(completed.stderr), argv
        self.says = said[max(0, said.find("ERROR")) :][:600] or f"exit code {completed.returncode}"
        super().__init__(f"{' '.join(argv[:5])}: {self.says}")


def kind_of(stderr: str) -> Kind:
    """The kind of a failure, from what was said."""
    said = _NAMES.sub("", stderr)
    return next((kind for kind, pattern in _SAYS if re.search(pattern, said)), Kind.OTHER)


class Laptop:
    """Where the launcher runs: its processes and its clock. A simulation has its own."""

    def run(self, argv: Argv, timeout: float = 300.0) -> Completed:
        """Runs a command to its end; after `timeout` seconds it counts as failed.

        It has no terminal: SSH would read from it, and Ctrl-C would end what is under way.

        Raises:
          UserError: gcloud is not installed.
        """
        try:
            process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
                start_new_session=True,
            )
        except FileNotFoundError:
            raise UserError(
                f"{argv[0]} is not installed; see https://cloud.google.com/sdk/docs/install"
            ) from None
        try:
            stdout, stderr = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # gcloud's ssh too
            process.communicate()
            return Completed(124, "", f"timed out after {timeout:.0f} s")
        return Completed(process.returncode, stdout, stderr)

    def run_at_once(self, commands: Sequence[Argv], timeout: float) -> list[Completed]:
        """Runs commands side by side; what each of them left, in their order."""
        with ThreadPoolExecutor(32) as pool:
            return list(pool.map(lambda argv: self.run(argv, timeout), commands))

    def now(self) -> float:
        """Seconds since 1970."""
        return time.time()

    def sleep(self, seconds: float) -> None:
        """Waits."""
        time.sleep(seconds)


def call(laptop: Laptop, argv: Argv, timeout: float = 300.0, tries: int = 1) -> str:
    """What a command printed.

    Args:
      laptop: runs it.
      argv: the command.
      timeout: in seconds.
      tries: how often, where the cloud could not be reached; more than one only for a command
        that may be carried out twice.

    Raises:
      GcloudError: it failed.
    """
    completed = laptop.run(argv, timeout)
    while completed.returncode and kind_of(completed.stderr) is Kind.TRANSIENT and tries > 1:
        laptop.sleep(PAUSE_SECONDS)
        completed, tries = laptop.run(argv, timeout), tries - 1
    if completed.returncode:
        raise GcloudError(argv, completed)
    return completed.stdout


def call_json(laptop: Laptop, argv: Argv) -> Any:
    """What a command that reads printed, as `--format=json` gives it, decoded.

    Raises:
      GcloudError: it failed, or what it printed was cut off.
    """
    printed = call(laptop, [*argv, "--format=json"], tries=3)
    try:
        return json.loads(printed)
    except ValueError:
        raise GcloudError(argv, Completed(1, printed, "the connection broke off")) from None


def described(laptop: Laptop, argv: Argv) -> Any:
    """What a `describe` says; None: there is nothing of that name.

    Raises:
      GcloudError: the cloud could not be asked.
    """
    try:
        return call_json(laptop, argv)
    except GcloudError as error:
        if error.kind is Kind.ABSENT:
            return None
        raise
