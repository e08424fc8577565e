"""Errors that the user can correct; commands print them in one line and exit with code 2."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager


class UserError(Exception):
    """The user's input is wrong. The message names the culprit and the remedy."""


class ConfigError(UserError):
    """A config value is wrong.

    Attributes:
      key: the dotted key; `within` prefixes it as the error propagates to the outer dataclass.
      problem: the message without the key.
    """

    def __init__(self, key: str, problem: str):
        super().__init__(f"config.{key}: {problem}")
        self.key, self.problem = key, problem

    def within(self, parent: str) -> "ConfigError":
        """Returns the same error with `parent` as a prefix of its key."""
        return ConfigError(f"{parent}.{self.key}", self.problem)


class Interrupted(Exception):
    """A run was ended by SIGTERM, and is saved."""

    exit_code = 128 + signal.SIGTERM  # a shell's exit code for a process that the signal ended

    def __init__(self, step: int):
        super().__init__(f"stopped at step {step} and saved; the same command resumes")


@contextmanager
def within(parent: str) -> Iterator[None]:
    """Prefixes the key of each `ConfigError` that its block raises, as in `within("source")`."""
    try:
        yield
    except ConfigError as error:
        raise error.within(parent) from None
