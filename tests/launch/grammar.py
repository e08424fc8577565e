"""Whether gcloud would take a command line, by its grammar in grammar.json."""

import json
from pathlib import Path
from typing import Any

GRAMMAR = json.loads(Path(__file__).with_name("grammar.json").read_text())


def check(argv: list[str]) -> list[str]:
    """What is wrong with a command line `gcloud ...`; an empty list: nothing."""
    if argv[:1] != ["gcloud"]:
        return [f"'{' '.join(argv[:1])}' is not gcloud"]
    name = _command(argv[1:])
    if name is None:
        return [f"unknown command '{' '.join(word for word in argv if word[:1] != '-')}'"]
    command = GRAMMAR["commands"][name]
    given, words, wrong = _read(argv[1 + len(name.split()) :], command)
    wrong += [f"missing {flag}" for flag in command.get("needs", []) if flag not in given]
    wrong += [problem for group in command.get("groups", []) for problem in _group(group, given)]
    wrong += _positionals(command["positionals"], words)
    return [f"{name}: {problem}" for problem in wrong]


def _command(words: list[str]) -> str | None:
    """The longest name of a command with which the words begin."""
    names = [" ".join(words[:length]) for length in range(len(words), 0, -1)]
    return next((name for name in names if name in GRAMMAR["commands"]), None)


def _read(words: list[str], command: dict[str, Any]) -> tuple[dict[str, str], list[str], list[str]]:
    """The flags with their values, the positionals, and what is wrong with single flags."""
    flags = GRAMMAR["global"] | command["flags"]
    given: dict[str, str] = {}
    positionals: list[str] = []
    wrong: list[str] = []
    rest = iter(words)
    for word in rest:
        if word == "--":
            positionals += list(rest)
        elif not word.startswith("-"):
            positionals.append(word)
        else:
            flag, assigned, value = word.partition("=")
            kind = flags.get(flag)
            if kind is not None and kind != "switch" and not assigned:
                value = next(rest, "-")
                assigned = "" if value.startswith("-") else "="
            wrong += _flag(flag, kind, bool(assigned), value, flag in given)
            given[flag] = value
    return given, positionals, wrong


def _flag(flag: str, kind: Any, assigned: bool, value: str, again: bool) -> list[str]:
    if kind is None:
        return [f"unknown flag {flag}"]
    if kind == "switch":
        return [f"{flag} takes no value"] if assigned else []
    if not assigned and kind != "optional":
        return [f"{flag} without its value"]
    wrong = [f"{flag} is given twice"] if again and kind != "values" else []
    if kind == "int" and not value.isdecimal():
        wrong.append(f"{flag}={value} is no number")
    if isinstance(kind, list) and _plain(value) not in map(_plain, kind):
        wrong.append(f"{flag}={value} is none of {', '.join(kind)}")
    return wrong


def _plain(choice: str) -> str:
    """Gcloud takes HIGH_THROUGHPUT for high-throughput, and the other way round."""
    return choice.lower().replace("_", "-")


def _group(group: dict[str, Any], given: dict[str, str]) -> list[str]:
    present = [member for member in group["of"] if _any(member, given)]
    wrong = []
    if group.get("exclusive") and len(present) > 1:
        wrong.append(f"at most one of {' | '.join(map(_text, group['of']))}")
    if group.get("required") and not present:
        wrong.append(f"missing one of {' | '.join(map(_text, group['of']))}")
    if present:
        wrong += [f"missing {flag}" for flag in group.get("needs", []) if flag not in given]
    inner = [member for member in present if isinstance(member, dict)]
    return wrong + [problem for member in inner for problem in _group(member, given)]


def _any(member: Any, given: dict[str, str]) -> bool:
    if isinstance(member, str):
        return member in given
    return any(_any(part, given) for part in member["of"])


def _text(member: Any) -> str:
    if isinstance(member, str):
        return member
    return f"({' '.join(map(_text, member['of']))})"


def _positionals(wanted: list[list[str]], words: list[str]) -> list[str]:
    """nargs as in argparse: 1, + at least one, * any number, ... all the rest."""
    least = sum(nargs in ("1", "+") for _, nargs in wanted)
    most = len(words) if any(nargs != "1" for _, nargs in wanted) else len(wanted)
    names = " ".join(name for name, _ in wanted)
    if len(words) < least:
        return [f"missing one of its arguments: {names}"]
    return [f"too many arguments: {' '.join(words[most:])}"] if len(words) > most else []
