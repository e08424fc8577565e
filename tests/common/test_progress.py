import io
import logging
import re
import time
import types

import pytest

from research.common import progress as module
from research.common.progress import LogHandler, activity, on_terminal, progress


@pytest.fixture
def quick(monkeypatch, caplog):
    """Everything that takes 10 ms is shown."""
    for name in ("_DELAY", "_REFRESH_PERIOD", "_LOG_PERIOD"):
        monkeypatch.setattr(module, name, 0.01)
    caplog.set_level(logging.INFO)


@pytest.fixture
def terminal(monkeypatch):
    """The text on an emulated terminal."""

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    shown = Terminal()
    monkeypatch.setattr(module, "sys", types.SimpleNamespace(stderr=shown))
    return shown


def slow(count, seconds=0.02):
    for number in range(count):
        time.sleep(seconds)
        yield number


def wait_for(condition):
    """Waits until another thread has fulfilled a condition, a minute at most."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "the condition is not fulfilled"
        time.sleep(0.001)


def test_a_terminal_has_a_bar_that_disappears(quick, terminal, caplog):
    assert on_terminal()
    assert list(progress(slow(4, 0.12), "reading", 4)) == [0, 1, 2, 3]
    shown = terminal.getvalue()
    assert "reading:" in shown and "3/4" in shown
    assert shown.endswith("\r")  # cleared
    assert not caplog.messages


def test_elsewhere_lines_without_control_characters_are_logged(quick, capfd, caplog):
    assert not on_terminal()
    assert list(progress(slow(4), "reading", 1000)) == [0, 1, 2, 3]
    assert caplog.messages and caplog.messages[0].startswith("reading: ")
    assert caplog.messages[0].endswith(" of 1,000")
    assert capfd.readouterr() == ("", "")


def test_what_is_quick_is_not_shown(terminal, caplog):
    caplog.set_level(logging.INFO)
    assert list(progress(range(100), "reading", 100)) == list(range(100))
    with activity("compiling"):
        pass
    assert "reading" not in terminal.getvalue() and "compiling" not in terminal.getvalue()
    assert not caplog.messages


def test_an_activity_is_named_on_a_terminal_while_it_lasts(quick, terminal):
    with activity("compiling the step"):
        wait_for(lambda: re.search(r"compiling the step \d\d:\d\d", terminal.getvalue()))
    assert terminal.getvalue().endswith("\r")


def test_an_activity_is_logged_with_its_time_elsewhere(quick, caplog):
    with pytest.raises(ValueError), activity("compiling the step"):
        wait_for(lambda: caplog.messages)
        raise ValueError
    begin, end = caplog.messages
    assert begin == "compiling the step ..."
    assert re.fullmatch(r"compiling the step: \d+\.\d s", end)


def test_only_one_process_shows_progress(quick, terminal, monkeypatch, caplog):
    monkeypatch.setattr(module, "are_several", lambda: True)
    monkeypatch.setattr(module.jax, "process_index", lambda: 1)
    assert list(progress(slow(3), "reading", 3)) == [0, 1, 2]
    with activity("compiling"):
        time.sleep(0.05)
    assert terminal.getvalue() == "" and not caplog.messages


def test_log_lines_are_written_to_stderr_above_the_bars(capsys):
    handler = LogHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    handler.emit(logging.makeLogRecord({"msg": "a line"}))
    assert capsys.readouterr().err == "a line\n"
