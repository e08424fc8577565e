import io
import logging
import os
import sys

import jax
import pytest

from research.common import cli
from research.common.progress import LogHandler

REMEDY = "lower config.batch_size, or raise config.gradient_accumulation_steps"


@pytest.mark.parametrize(
    ("problem", "line"),
    [
        (
            jax.errors.JaxRuntimeError(
                "RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.\nat x"
            ),
            "out of memory (RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.)",
        ),
        (MemoryError("Unable to allocate 9 GiB"), "out of memory (Unable to allocate 9 GiB)"),
        (MemoryError(), "out of memory"),
    ],
)
def test_a_failed_allocation_is_one_line(in_process, monkeypatch, capsys, problem, line):
    def main(_):
        raise problem

    monkeypatch.setattr(sys, "argv", ["command"])
    with pytest.raises(SystemExit) as end:
        cli.run(main, required=())
    assert end.value.code == 2
    assert capsys.readouterr().err == f"error: {line}; {REMEDY}\n"


def test_another_failure_keeps_its_traceback(in_process, monkeypatch):
    def main(_):
        raise jax.errors.JaxRuntimeError("INTERNAL: a defect")

    monkeypatch.setattr(sys, "argv", ["command"])
    with pytest.raises(jax.errors.JaxRuntimeError, match="a defect"):
        cli.run(main, required=())


def test_a_closed_standard_error_does_not_end_the_command(monkeypatch):
    """As after `2>&1 | head`."""
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb", buffering=0) as pipe:
        monkeypatch.setattr("sys.stderr", io.TextIOWrapper(pipe, write_through=True))
        LogHandler().handle(logging.makeLogRecord({"msg": "a line"}))
