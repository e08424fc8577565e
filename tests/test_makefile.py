"""The commands of the Makefile, with a Python that prints its arguments."""

import pytest

from tests.make import MAKEFILE, make


@pytest.fixture
def arguments_of(tmp_path):
    """Returns a function that runs make and returns the arguments of Python."""
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.write_text('#!/bin/sh\nprintf "[%s]\\n" "$@"\n')
    python.chmod(0o755)
    (tmp_path / "installed").touch()

    def run(*arguments):
        done = make("--silent", f"VENV={tmp_path}", *arguments, folder=MAKEFILE.parent)
        assert done.returncode == 0, done.stderr
        return [line[1:-1] for line in done.stdout.splitlines()]

    return run


@pytest.mark.parametrize("workdir", ["runs/a", "runs/my run", "runs/anna's $HOME", 'runs/"a"'])
@pytest.mark.parametrize("command", ["train", "evaluate"])
def test_a_workdir_with_special_characters_is_one_argument(arguments_of, command, workdir):
    arguments = arguments_of(
        command, f"WORKDIR={workdir.replace('$', '$$')}", "ARGS=--json '--a=b c'"
    )
    assert arguments[:2] == ["-m", f"research.{command}"]
    assert arguments[-3:] == [f"--workdir={workdir}", "--json", "--a=b c"]


def test_training_has_the_name_of_its_experiment(arguments_of):
    config = "experiments/image_classification/digits_mlp.py"
    expected = [f"--config={config}", "--workdir=runs/digits_mlp"]
    assert arguments_of("train", f"CONFIG={config}")[2:] == expected


def test_a_make_that_runs_the_tests_does_not_change_them(arguments_of, monkeypatch):
    monkeypatch.setenv("MAKEFLAGS", "n")
    assert arguments_of("evaluate", "WORKDIR=runs/a")[:2] == ["-m", "research.evaluate"]
