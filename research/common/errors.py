"""Errors that the user can correct; commands print them as one line and exit with code 2."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager

SAVE_MEMORY = "lower config.batch_size, or raise config.gradient_accumulation_steps"


class UserError(Exception):
    """Invalid input of the user. The message names the cause and the remedy."""


class ConfigError(UserError):
    """An invalid config value.

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
    """A run received SIGTERM or SIGINT (Ctrl-C) and was saved.

    Attributes:
      exit_code: that of a shell for a process that the signal ended: 143 or 130.
    """

    def __init__(self, step: int, signal_number: int = signal.SIGTERM):
        super().__init__(f"stopped at step {step} and saved; the same command resumes")
        self.exit_code = 128 + signal_number


@contextmanager
def within(parent: str) -> Iterator[None]:
    """Prefixes the key of each `ConfigError` that its block raises, as in `within("source")`."""
    try:
        yield
    except ConfigError as error:
        raise error.within(parent) from None


@contextmanager
def caused_by(key: str) -> Iterator[None]:
    """Names the key whose value causes a `UserError` in its block, as in `caused_by("path")`."""
    try:
        yield
    except UserError as error:
        raise ConfigError(key, str(error)) from None
