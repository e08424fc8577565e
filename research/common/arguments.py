"""Parses the command line of a command; each mistake is one line that names flag and remedy."""

import difflib
import re
import sys
import textwrap
from pathlib import Path
from types import ModuleType
from typing import Any

from absl import flags

from research.common.config import suggest
from research.common.errors import UserError

CHANGES = "config.KEY"  # a flag of this name collects all --config.KEY=VALUE
_REPEATED = "; repeat this option to specify a list of values"  # which absl appends
_WIDTH = 100  # of a line of --help, in characters


def help_text(module: ModuleType, required: tuple[str, ...]) -> str:
    """Returns the docstring of a command, and all of its flags.

    Args:
      module: the module of the command, which defined its flags.
      required: names of the flags that must be given.
    """
    known = sorted(_flags_of(module).items())
    flags_help = [_help(flag, name in required) for name, flag in known]
    text = "\n".join([(module.__doc__ or "").strip(), "\nFlags:", *flags_help])
    if sys.argv[0].startswith("polymath "):  # the console command
        text = text.replace("python -m research.", "polymath ")
    return text


def parse(
    argv: list[str], module: ModuleType, required: tuple[str, ...], positional: str
) -> list[str]:
    """Parses the flags of a command.

    Args:
      argv: the program and its arguments.
      module: the module of the command, which defined its flags.
      required: names of the flags that must be given.
      positional: name of the positional arguments, such as "FILE"; empty if there are none.

    Returns:
      The positional arguments.

    Raises:
      UserError: the arguments are invalid.
    """
    known = _flags_of(module)
    try:
        argv = flags.FLAGS.read_flags_from_files(argv, force_gnu=False)
        if CHANGES in known:
            argv = [_collected(argument) for argument in argv]
        # A shell does not expand the ~ of --workdir=~/runs.
        argv = [re.sub(r"^(--?\w+=)~(?=/)", rf"\1{Path.home()}", argument) for argument in argv]
        _, *arguments = flags.FLAGS(argv)
    except flags.UnrecognizedFlagError as error:
        raise _unknown(error.flagname, known, positional) from None
    except flags.Error as error:
        raise _invalid(str(error), known) from None
    if arguments and not positional:
        raise _unexpected(arguments[0], known)
    _check_given(known, required)
    return arguments


def _help(flag: Any, is_required: bool) -> str:
    """Returns the lines of --help about one flag."""
    note = " (required)" if is_required else ""
    if flag.default not in (None, False, []):
        default = flag.default
        note = f" (default {','.join(default) if isinstance(default, list) else default})"
    name = f"--[no]{flag.name}" if flag.boolean else f"--{flag.name}=..."
    words = " ".join(flag.help.split()).replace(_REPEATED, " May be repeated.") + note
    indent = " " * 6
    return f"  {name}\n" + textwrap.fill(
        words, _WIDTH, initial_indent=indent, subsequent_indent=indent
    )


def _flags_of(module: ModuleType) -> dict[str, Any]:
    return {flag.name: flag for flag in flags.FLAGS.get_key_flags_for_module(module)}


def _collected(argument: str) -> str:
    """Rewrites `--config.a.b=1` to `--config.KEY=a.b=1`, since absl flags have fixed names."""
    change = re.fullmatch(r"--?config\.([^=]*)(=.*)?", argument, re.DOTALL)
    if change is None:
        return argument
    if change[2] is None:
        raise UserError(f"invalid flag {argument}: expected --config.KEY=VALUE")
    return f"--{CHANGES}={change[1]}{change[2]}"


def _unknown(name: str, known: dict[str, Any], positional: str) -> UserError:
    """Returns the error for an unknown flag: the nearest one, or else all."""
    group, dot, key = name.partition(".")
    if dot and "change" in known:
        return UserError(f"unknown flag --{name}; did you mean --change={key}=VALUE?")
    if dot and CHANGES in known and difflib.get_close_matches(group, ["config"]):
        return UserError(f"unknown flag --{name}; did you mean --config.{key}?")
    names = [f"--{flag}" for flag in known if flag != CHANGES]
    names += [positional] if positional else []
    remedy = suggest(f"--{name}", names)
    if CHANGES in known and remedy.startswith("known"):
        remedy += f"; a key of the experiment is set by --config.{name}=VALUE"
    return UserError(f"unknown flag --{name}; {remedy}")


def _invalid(problem: str, known: dict[str, Any]) -> UserError:
    """Returns absl's error in the project's words: "flag --NAME=VALUE: REASON" or another."""
    found = re.match(r"flag --(\w+)=(.*?): ", problem, re.DOTALL)
    flag = known.get(found[1]) if found else None
    if found is None or flag is None:
        return UserError(f"{problem[0].lower()}{problem[1:]}; --help describes the flags")
    if flag.boolean:
        expected = "true or false"
    elif isinstance(flag.parser, flags.EnumParser):
        values = flag.parser.enum_values
        expected = f"{' or '.join(values)}; {suggest(found[2], values)}"
    else:
        expected = flag.parser.syntactic_help
    return UserError(f"invalid flag --{found[1]}={found[2]}: expected {expected}")


def _unexpected(argument: str, known: dict[str, Any]) -> UserError:
    """Returns the error for an argument of a command that takes flags alone."""
    if argument.endswith(".py") and "config" in known:
        remedy = f"did you mean --config={argument}?"
    elif "=" in argument:
        is_key = CHANGES in known and argument.partition("=")[0] not in known
        prefix = "config." if is_key and not argument.startswith("config.") else ""
        remedy = f"did you mean --{prefix}{argument}?"
    else:
        remedy = 'quote a value that contains spaces, as in --workdir="my runs/1", '
        remedy += """and in make as in ARGS="'--config.KEY=a b'\""""
    return UserError(f"unexpected argument '{argument}': {remedy}")


def _check_given(known: dict[str, Any], required: tuple[str, ...]) -> None:
    for name, flag in known.items():
        values = flag.value if isinstance(flag.value, list) else [flag.value]
        if flag.present and ("" in values or not values):
            raise UserError(f"invalid flag --{name}={','.join(values)}: expected a value")
        if flag.present > 1 and not isinstance(flag, flags.MultiFlag):
            given = f"invalid flag --{name}={','.join(map(str, values))}"
            raise UserError(f"{given}: given {flag.present} times; leave all but one out")
    missing = [f"--{name}" for name in required if known[name].value is None]
    if missing:
        raise UserError(f"missing {' and '.join(missing)}; --help shows an example")
