import sys

import jax
import pytest

from research.common import cli

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
