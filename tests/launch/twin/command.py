"""gcloud's command lines: what they are made of, and what they print."""

import functools
import json
import re
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from tests.launch.grammar import GRAMMAR


class Completed(NamedTuple):
    """What a command left."""

    returncode: int
    stdout: str
    stderr: str


PROJECT = "twin"


class Vm(NamedTuple):
    """One machine: the node (or instance) it belongs to, and its number there."""

    node: str
    worker: int


# A command that takes time: it yields the seconds until it goes on.
Steps = Generator[float, None, Completed]


class Refusal(Exception):
    """A command that gcloud ends with `ERROR: (gcloud.command) message`."""

    def __init__(self, message: str, code: int = 1):
        super().__init__(message)
        self.code = code


class Disk:
    """The files of whoever calls gcloud."""

    def __init__(self, folder: str | Path = ".", stdin: bytes = b""):
        self.folder, self.stdin = Path(folder), stdin

    def path(self, name: str) -> Path:
        return self.folder / name

    def read(self, name: str) -> bytes:
        try:
            return self.stdin if name == "-" else self.path(name).read_bytes()
        except OSError as error:
            raise Refusal(f"Unable to read file [{name}]: {error}") from None


HERE = Disk()


@dataclass
class Call:
    """One command line, taken apart."""

    command: str  # "compute tpus tpu-vm create"
    words: list[str] = field(default_factory=list)
    flags: dict[str, str] = field(default_factory=dict)  # "zone"; "true" for one without a value
    disk: Disk = HERE

    @property
    def name(self) -> str:
        if not self.words:
            raise Refusal("argument NAME: Must be specified.", 2)
        return self.words[0]

    def need(self, flag: str) -> str:
        if flag not in self.flags:
            raise Refusal(f"argument --{flag}: Must be specified.", 2)
        return self.flags[flag]

    def pairs(self, flag: str) -> dict[str, str]:
        """The value `a=1,b=2` of a flag."""
        given = self.flags.get(flag, "")
        return dict(pair.partition("=")[::2] for pair in given.split(",") if pair)

    def metadata(self) -> dict[str, str]:
        """Of the machine to be created."""
        files = self.pairs("metadata-from-file").items()
        read = {key: self.disk.read(path).decode() for key, path in files}
        return self.pairs("metadata") | read


Handler = Callable[[Call], Any]  # what a command does; it returns what is printed, or `Steps`


@functools.cache
def switches(command: str) -> dict[str, bool]:
    """The flags that gcloud takes with a command, and whether each goes without a value."""
    flags = GRAMMAR["global"] | GRAMMAR["commands"].get(command, {}).get("flags", {})
    return {flag: kind == "switch" for flag, kind in flags.items()}


def parse(command: str, rest: list[str]) -> Call:
    """Takes a command line apart.

    Raises:
      Refusal: it has a flag that the command does not take.
    """
    call, tokens, known = Call(command), iter(rest), switches(command)
    for token in tokens:
        flag, given, value = token.partition("=")
        if not token.startswith("-") or token == "-":
            call.words.append(token)
        elif flag not in known or (known[flag] and given):
            raise Refusal(f"unrecognized arguments: {token}", 2)
        elif known[flag]:
            call.flags[flag[2:]] = "true"
        else:
            call.flags[flag[2:]] = value if given else next(tokens, "")
    return call


def printed(result: Any, call: Call) -> str:
    """What gcloud prints of a result, in the formats json, value and none."""
    if result is None:
        return ""
    shape = call.flags.get("format", "")
    if isinstance(result, list) and "filter" in call.flags:
        result = [one for one in result if matches(one, call.flags["filter"])]
    if shape == "json":
        return json.dumps(result) + "\n"
    if shape == "none":
        return ""
    if fields := re.fullmatch(r"value\((.*)\)", shape):
        rows = result if isinstance(result, list) else [result]
        paths = [path.strip() for path in fields[1].split(",")]
        return "".join("\t".join(text_at(row, path) for path in paths) + "\n" for row in rows)
    return result if isinstance(result, str) else json.dumps(result, indent=1) + "\n"


def text_at(resource: Any, path: str) -> str:
    """The text under a path such as state.state or name.basename()."""
    path, _, last = path.partition(".basename()")
    for key in re.findall(r"[^.\[\]]+", path):
        if isinstance(resource, list):
            resource = resource[int(key)] if int(key) < len(resource) else None
        else:
            resource = resource.get(key) if isinstance(resource, dict) else resource
    text = "" if resource is None else str(resource)
    return text.rpartition("/")[2] if last or ".basename()" in path else text


def matches(resource: Any, expression: str) -> bool:
    """Whether a resource satisfies gcloud's filter: terms a=b, a:b, a:b*, a~regex joined by AND."""
    for term in re.split(r"\s+AND\s+|\s+", expression.strip()):
        parts = re.fullmatch(r"([^=:~]+)([=:~])\"?(.*?)\"?", term)
        if not parts:
            raise Refusal(f"Failed to parse filter [{expression}].", 2)
        path, operator, wanted = parts.groups()
        text = text_at(resource, path)
        if operator == "~":
            good = re.search(wanted, text) is not None
        elif wanted.endswith("*"):
            good = bool(text) and text.startswith(wanted[:-1])
        else:
            good = text == wanted or (operator == ":" and wanted in re.split(r"\W+", text))
        if not good:
            return False
    return True
