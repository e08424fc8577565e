"""Progress of long operations: bars on a terminal, plain log lines elsewhere.

Nothing is shown in the first two seconds, and only process 0 shows anything.
"""

import logging
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import jax
from tqdm import tqdm

from research.common.processes import are_several

T = TypeVar("T")
log = logging.getLogger(__name__)
_DELAY = 2.0  # seconds before anything is shown
_LOG_PERIOD = 20.0  # seconds between log lines
_REFRESH_PERIOD = 0.5  # seconds between updates of a terminal


class LogHandler(logging.Handler):
    """Writes log lines to stderr, above the progress bars.

    Like Python's own handlers it does not raise errors: a training goes on after its reader has
    closed the pipe, as in `... 2>&1 | head`.
    """

    def emit(self, record: logging.LogRecord) -> None:
        try:
            tqdm.write(self.format(record), file=sys.stderr)
        except Exception:
            self.handleError(record)


def progress(items: Iterable[T], name: str, total: int) -> Iterator[T]:
    """Yields items and shows how many of them are done.

    Args:
      items: the items.
      name: of the operation, such as "evaluating".
      total: the number of items.
    """
    if on_terminal():
        with tqdm(
            items, name, total, delay=_DELAY, leave=False, dynamic_ncols=True, file=sys.stderr
        ) as bar:
            yield from bar
        return
    due = time.monotonic() + _DELAY
    for count, item in enumerate(items):
        if time.monotonic() >= due and _is_shown():
            due = time.monotonic() + _LOG_PERIOD
            log.info("%s: %s of %s", name, f"{count:,}", f"{total:,}")
        yield item


@contextmanager
def activity(name: str) -> Iterator[None]:
    """Shows that the block of code is being executed, and for how long.

    Args:
      name: of the operation, such as "reading the weights".
    """
    ended = threading.Event()
    show = _show_bar if on_terminal() else _show_lines
    thread = threading.Thread(target=show, args=(name, ended), daemon=True)
    if _is_shown():
        thread.start()
    try:
        yield
    finally:
        ended.set()
        if _is_shown():
            thread.join()


def on_terminal() -> bool:
    """Returns whether this process shows its progress as bars."""
    return sys.stderr.isatty() and _is_shown()


def _is_shown() -> bool:
    return not are_several() or jax.process_index() == 0


def _show_bar(name: str, ended: threading.Event) -> None:
    if ended.wait(_DELAY):
        return
    form = "{desc} {elapsed}"
    # With a delay, the bar is not drawn before its start is set.
    with tqdm(desc=name, bar_format=form, delay=_DELAY, leave=False, file=sys.stderr) as bar:
        bar.start_t -= _DELAY
        bar.refresh()
        while not ended.wait(_REFRESH_PERIOD):
            bar.refresh()


def _show_lines(name: str, ended: threading.Event) -> None:
    begin = time.monotonic()
    if ended.wait(_DELAY):
        return
    log.info("%s ...", name)
    ended.wait()
    log.info("%s: %.1f s", name, time.monotonic() - begin)
