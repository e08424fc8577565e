"""Ctrl-C (SIGINT): ends a command within seconds, with one line and without a traceback."""

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

EXIT_CODE = 128 + signal.SIGINT  # exit code of a shell for a process that SIGINT ended
SAVING = threading.Event()  # set while a training saves a checkpoint at Ctrl-C, and then ends
_NOTICE = "saving at the end of this step or evaluation; Ctrl-C again ends at once"
_GRACE_SECONDS = 2.0
_REPEAT_SECONDS = 0.5  # wrappers such as `make` may pass on a SIGINT that the terminal sent to all


def end_imports_quietly() -> None:
    """Ends this process at Ctrl-C without a traceback, until `ended_by_interrupts` takes over."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end)


@contextmanager
def ended_by_interrupts() -> Iterator[None]:
    """Raises KeyboardInterrupt at Ctrl-C, and ends the process if that takes too long.

    Python runs signal handlers between two bytecodes of the main thread, so not while XLA compiles.
    A thread that waits for signals then ends the process. It also does so at the second Ctrl-C,
    where a training saves at the first.
    """
    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    before = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False), sys.unraisablehook
    sys.unraisablehook = _ignore_interrupt
    threading.Thread(target=_watch, args=(reader,), daemon=True).start()
    try:
        yield
    except KeyboardInterrupt:
        _end()
    finally:
        signal.set_wakeup_fd(before[0])
        sys.unraisablehook = before[1]
        writer.close()  # ends the thread


def _ignore_interrupt(problem: "sys.UnraisableHookArgs") -> None:
    """Prints no traceback where Python drops a KeyboardInterrupt, as in a callback of its GC."""
    if not issubclass(problem.exc_type, KeyboardInterrupt):
        sys.__unraisablehook__(problem)


def _watch(signals: socket.socket) -> None:
    """Ends the process at a SIGINT that the main thread does not answer.

    Args:
      signals: receives the number of each signal as a byte.
    """
    first, saves = None, False
    while True:
        try:
            numbers = signals.recv(64)
        except TimeoutError:
            if not saves:
                _end()
            print(_NOTICE, file=sys.stderr)
            signals.settimeout(None)
            continue
        if not numbers:
            signals.close()
            return
        if signal.SIGINT in numbers:
            now = time.monotonic()
            if first is None:
                first, saves = now, SAVING.is_set()
                signals.settimeout(_GRACE_SECONDS)
            elif now - first > _REPEAT_SECONDS:
                _end()


def _end(*_: object) -> NoReturn:
    """Prints one line and exits at once, as threads that read data would delay a regular exit."""
    print("interrupted; the same command starts it again", file=sys.stderr, flush=True)
    sys.stdout.flush()
    os._exit(EXIT_CODE)
