"""The errors that a user can mend; the command line prints them in one line and exits with 2."""


class UserError(Exception):
    """Something the user gave is wrong. The message names the culprit and the remedy."""


class ConfigError(UserError):
    """A config value is wrong. `key` is dotted, and grows a prefix as the error rises."""

    def __init__(self, key: str, problem: str):
        super().__init__(f"config.{key}: {problem}")
        self.key, self.problem = key, problem

    def within(self, parent: str) -> "ConfigError":
        """The same error seen from one level up."""
        return ConfigError(f"{parent}.{self.key}", self.problem)
