"""Prints every key of an experiment with its value, type and documentation.

python -m research.config experiments/image_classification/digits_cnn.py --config.seed=1

Keys whose value is not the default are marked *. --config.KEY=VALUE changes the value of a key.
"""

import shlex
import textwrap
from pathlib import Path

from absl import flags

from research.common import cli
from research.common.documentation import Entry, entries
from research.common.errors import UserError
from research.training.experiment import load_experiment

FLAGS = flags.FLAGS
_WIDTH = 100  # of a line, in characters
_MAX_LENGTH = 200  # characters of a value; vocabularies are longer


def define_flags() -> None:
    """Defines the flags of this command."""
    cli.define_config_changes()


def format_entry(entry: Entry) -> str:
    """Returns the lines that describe one key."""
    mark = " " if entry.is_default else "*"
    value = "" if entry.value is None else "=" + _quoted(entry.value)
    paragraphs = [" ".join(text.split()) for text in entry.documentation.split("\n\n")]
    documentation = [textwrap.fill(text, _WIDTH - 6) for text in paragraphs if text]
    lines = [f"{mark} {entry.key}{value}  ({entry.type})"]
    return "\n".join(lines + [textwrap.indent(text, " " * 6) for text in documentation])


def main(arguments: list[str]) -> None:
    """Prints every key of an experiment."""
    if not arguments:
        raise UserError("missing experiment file: expected python -m research.config FILE")
    for argument in arguments:
        if "=" in argument and not argument.endswith(".py"):
            change = f"--config.{argument.removeprefix('config.')}"
            raise UserError(f"unexpected argument '{argument}': did you mean {change}?")
    if len(arguments) > 1:
        raise UserError(f"unexpected argument '{arguments[1]}': expected one experiment file")
    experiment = load_experiment(Path(arguments[0]), cli.config_changes())
    print("\n".join(map(format_entry, entries(experiment))))


def _quoted(text: str) -> str:
    """Quotes a value for a shell where it needs that, and shortens it."""
    is_plain = not set(text) & set('"$`\\')
    quoted = f'"{text}"' if "'" in text and is_plain else shlex.quote(text)
    return quoted if len(quoted) <= _MAX_LENGTH else f"{quoted[:_MAX_LENGTH]}..."


def run_command() -> None:
    """Runs this command with the arguments of the command line."""
    define_flags()
    cli.run(main, required=(), positional="FILE")


if __name__ == "__main__":
    run_command()
