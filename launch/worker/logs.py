"""The log of a training process: the cause of its exit, and the copy in the workdir."""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
from pathlib import Path

MAX_OLD_LOGS = 5  # logs of earlier attempts
_MAX_BYTES = 1 << 19  # bytes at the end of a log that are searched for the cause
_MAX_LINES = 60  # lines of a traceback at most

# Messages of JAX, gloo and gRPC about the loss of another process, as of JAX 0.10.
_PEER_LOST = re.compile(
    r"closed by peer|reset by peer|broken pipe|socket closed|connection refused"
    r"|gloo .*(failed|timed? ?out)|distributed service|coordination ?(service|agent|client)"
    r"|another task|barrier|heartbeat|peer .*(died|unreachable|lost)|rendezvous"
    r"|connect.* to peer|failed to connect",
    re.IGNORECASE,
)
# Other exceptions, such as those of a file system, contain these words; JAX's also name a status.
_FROM_JAX = re.compile(
    r"^(\w+\.)*((Jax|Xla)RuntimeError|\w+: (UNKNOWN|UNAVAILABLE|DEADLINE_EXCEEDED|ABORTED|INTERNAL"
    r"|CANCELLED|FAILED_PRECONDITION|INVALID_ARGUMENT|NOT_FOUND|DATA_LOSS)): "
)
_BEGIN = re.compile(r"^(\s*[|+ ]*)?(Exception Group )?Traceback \(most recent call last\):")
_LINK = ("During handling of the above exception", "The above exception was the direct cause")
_STACKS = re.compile(r"^(Fatal Python error: |(Current thread|Thread) 0x)")
NOISE = re.compile(r"\[Gloo\] Rank \d+ is connected")  # several lines for every device
_LOG_LINE = re.compile(r"^[IWEF]\d{4} ")  # of C++, from any thread
_EXCEPTION = re.compile(r"^[A-Za-z_][\w.]*(: |$)")
_NO_MESSAGE = re.compile(
    r"^([IWEF]\d{4} |Exception ignored|error: |Fatal Python error: |(Current thread|Thread) 0x)"
)


def rotate(log: Path) -> None:
    """Rotates the log: `training.log` becomes `training.log.1`, and so on."""
    for number in range(MAX_OLD_LOGS, 0, -1):
        older = log.with_name(f"{log.name}.{number}")
        newer = log.with_name(f"{log.name}.{number - 1}") if number > 1 else log
        with contextlib.suppress(FileNotFoundError):
            newer.replace(older)


def read_from(log: Path, offset: int) -> str:
    """Returns the text of a log from an offset, at most the last 512 KiB."""
    try:
        with log.open("rb") as file:
            offset = max(offset, log.stat().st_size - _MAX_BYTES)
            file.seek(offset)
            return file.read().decode(errors="replace")
    except OSError:
        return ""


def first_cause(text: str) -> tuple[str, bool]:
    """Returns the cause of a process's exit, and whether it is the failure of another process.

    The cause is the first traceback that is not about other processes, with the stacks that Python
    dumped; else the line of a user error; else the last lines.
    """
    chains = _chains(text)
    own = [chain for chain in chains if not _is_secondary(chain, text)]
    lines = [line for line in text.rstrip().splitlines() if not NOISE.match(line)]
    refusals = [line for line in lines if line.startswith("error: ")]
    parts = [part for part in (*own[:1], stacks(text)) if part]
    parts = parts or chains[:1] or refusals[-1:] or ["\n".join(lines[-10:])]
    secondary = not own and bool(chains or _PEER_LOST.search(text))
    return "\n\n".join(_shortened(part) for part in parts), secondary


def stacks(text: str) -> str:
    """Returns the last dump of all threads' stacks by Python's faulthandler."""
    lines = text.splitlines()
    begins = [i for i, line in enumerate(lines) if _STACKS.match(line)]
    if not begins:
        return ""
    # A dump begins after a line that is not part of another stack.
    first = begins[-1]
    for begin in reversed(begins):
        between = lines[begin + 1 : first]
        if all(not line or line.startswith("  ") or _STACKS.match(line) for line in between):
            first = begin
    return "\n".join(lines[first:])


def copy(file: Path, target: str, timeout: float) -> None:
    """Copies a file to a local or `gs://` path; ignores errors."""
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        if target.startswith("gs://"):
            subprocess.run(
                ["gcloud", "storage", "cp", "--quiet", str(file), target],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                timeout=timeout,
            )
        else:
            Path(target).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(str(file), target)


def _chains(text: str) -> list[str]:
    """Returns the tracebacks, each with its chained exceptions."""
    chains: list[list[str]] = []
    inside = linked = logged = False
    before = ""
    for line in text.splitlines():
        if inside and not _has_message(chains[-1]):
            # A message in the log may have several lines.
            is_traceback = line.startswith(" ") or _EXCEPTION.match(line) or _BEGIN.match(line)
            logged = bool(_LOG_LINE.match(line)) or (logged and not is_traceback)
            if logged:
                continue
        if _BEGIN.match(line) and not before.startswith("Exception ignored"):
            if not (linked and chains):
                chains.append([])
            inside, linked = True, False
        elif not line or _NO_MESSAGE.match(line):
            inside = False
        linked = line.startswith(_LINK) or (linked and not line)
        if chains and (inside or linked):
            chains[-1] += [line] if before or inside else ["", line]
        before = line
    return ["\n".join(chain).rstrip() for chain in chains]


def _is_secondary(chain: str, text: str) -> bool:
    """Returns whether the first exception of a chain in a text is about another process.

    JAX may end the process while Python prints: the rest of the text then decides about a traceback
    without its exception.
    """
    first = re.split("|".join(_LINK), chain)[0].splitlines()
    if not _has_message(first):
        return bool(_PEER_LOST.search(text))
    begin = next(i for i, line in enumerate(first) if i and not line.startswith(" "))
    message = "\n".join(first[begin:])
    return bool(_FROM_JAX.match(message) and _PEER_LOST.search(message))


def _has_message(traceback: list[str]) -> bool:
    """Returns whether the lines of a traceback include its exception."""
    return any(not line.startswith(" ") for line in traceback[1:])


def _shortened(text: str) -> str:
    """Returns the beginning and end of a long traceback."""
    lines = text.rstrip().splitlines()
    if len(lines) > _MAX_LINES:
        half = _MAX_LINES // 2
        lines = [*lines[:half], f"  ... {len(lines) - _MAX_LINES} lines ...", *lines[-half:]]
    return "\n".join(lines)
