"""Runs gcloud commands and classifies their errors."""

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
PAUSE_SECONDS = 2.0  # between retries


class Kind(enum.Enum):
    """The class of a failure, which decides how the launcher reacts."""

    ABSENT = "resource not found"
    TAKEN = "the name already exists"
    CAPACITY = "the zone has no capacity now"
    QUOTA = "the project's quota does not allow it"
    LOGIN = "gcloud is not logged in"
    DENIED = "permission denied"
    DISABLED = "the API is not enabled"
    USAGE = "invalid gcloud command"
    TRANSIENT = "cannot reach the cloud"
    OTHER = "unknown error"


# Error messages of gcloud and the API. The first match decides: errors about capacity and about
# quota share a status code, so the more specific patterns come first.
_PATTERNS = (
    (Kind.LOGIN, r"gcloud auth login|UNAUTHENTICATED|not currently have an active account|reauth"),
    (Kind.DISABLED, r"SERVICE_DISABLED|has not been used in project|API .*not enabled"),
    (Kind.CAPACITY, r"no more capacity|RESOURCE_POOL_EXHAUSTED|nsufficient.*capacity|stockout"),
    (Kind.CAPACITY, r"not have enough resources|does not have enough capacity"),
    (Kind.TAKEN, r"ALREADY_EXISTS|already exists"),
    (Kind.ABSENT, r"NOT_FOUND|was not found|[Nn]ot found|matched no objects|does not exist"),
    (Kind.TRANSIENT, r"per minute"),  # a rate limit, unlike the quota of a project
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
_NAMES = re.compile(
    r"'[^']*'|\"[\w.-]+\"|projects/\S+"
)  # resource names, which may contain any word


class Completed(NamedTuple):
    """The exit code and output of a command."""

    returncode: int
    stdout: str
    stderr: str


class GcloudError(Exception):
    """A gcloud command failed; `kind` classifies gcloud's `message`."""

    def __init__(self, argv: Argv, completed: Completed):
        text = " ".join(completed.stderr.split())
        self.kind, self.argv = classify_error(completed.stderr), argv
        self.message = (
            text[max(0, text.find("ERROR")) :][:600] or f"exit code {completed.returncode}"
        )
        super().__init__(f"{' '.join(argv[:5])}: {self.message}")


def classify_error(stderr: str) -> Kind:
    """Returns the kind of failure that an error message describes."""
    text = _NAMES.sub("", stderr)
    return next((kind for kind, pattern in _PATTERNS if re.search(pattern, text)), Kind.OTHER)


class LocalHost:
    """Processes and clock of the machine that runs the launcher; tests substitute a simulation."""

    def run(self, argv: Argv, timeout: float = 300.0) -> Completed:
        """Runs a command and waits; it fails with exit code 124 after `timeout` seconds.

        It runs without a terminal, from which SSH would read, and in its own session, so that
        Ctrl-C does not interrupt it.

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

    def run_parallel(self, commands: Sequence[Argv], timeout: float) -> list[Completed]:
        """Runs commands in parallel and returns their results in order."""
        with ThreadPoolExecutor(32) as pool:
            return list(pool.map(lambda argv: self.run(argv, timeout), commands))

    def now(self) -> float:
        """Returns the Unix time in seconds."""
        return time.time()

    def sleep(self, seconds: float) -> None:
        """Sleeps for a number of seconds."""
        time.sleep(seconds)


def call(local_host: LocalHost, argv: Argv, timeout: float = 300.0, tries: int = 1) -> str:
    """Runs a command and returns its standard output.

    Args:
      local_host: runs the command.
      argv: the command.
      timeout: in seconds.
      tries: the number of tries after transient errors; more than one only for idempotent commands.

    Raises:
      GcloudError: the command failed.
    """
    completed = local_host.run(argv, timeout)
    while completed.returncode and classify_error(completed.stderr) is Kind.TRANSIENT and tries > 1:
        local_host.sleep(PAUSE_SECONDS)
        completed, tries = local_host.run(argv, timeout), tries - 1
    if completed.returncode:
        raise GcloudError(argv, completed)
    return completed.stdout


def call_json(local_host: LocalHost, argv: Argv) -> Any:
    """Runs a read-only command with `--format=json` and returns the decoded output.

    Raises:
      GcloudError: the command failed, or its output is truncated.
    """
    printed = call(local_host, [*argv, "--format=json"], tries=3)
    try:
        return json.loads(printed)
    except ValueError:
        raise GcloudError(argv, Completed(1, printed, "the connection broke off")) from None


def describe_resource(local_host: LocalHost, argv: Argv) -> Any:
    """Returns the output of a `describe` command; None if the resource does not exist.

    Raises:
      GcloudError: the command failed for another reason.
    """
    try:
        return call_json(local_host, argv)
    except GcloudError as error:
        if error.kind is Kind.ABSENT:
            return None
        raise
