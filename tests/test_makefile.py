"""The commands of the Makefile, with a Python that prints its arguments."""

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def make(tmp_path):
    """Returns a function that runs make and returns the arguments of Python."""
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.write_text('#!/bin/sh\nprintf "[%s]\\n" "$@"\n')
    python.chmod(0o755)
    (tmp_path / "installed").touch()

    def make(*arguments):
        command = ["make", "--silent", f"VENV={tmp_path}", *arguments]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return [line[1:-1] for line in done.stdout.splitlines()]

    return make


@pytest.mark.parametrize("workdir", ["runs/a", "runs/my run", "runs/anna's $HOME", 'runs/"a"'])
@pytest.mark.parametrize("command", ["train", "evaluate"])
def test_a_workdir_with_special_characters_is_one_argument(make, command, workdir):
    arguments = make(command, f"WORKDIR={workdir.replace('$', '$$')}", "ARGS=--json '--a=b c'")
    assert arguments[:2] == ["-m", f"research.{command}"]
    assert arguments[-3:] == [f"--workdir={workdir}", "--json", "--a=b c"]


def test_training_has_the_name_of_its_experiment(make):
    config = "experiments/image_classification/digits_mlp.py"
    expected = [f"--config={config}", "--workdir=runs/digits_mlp"]
    assert make("train", f"CONFIG={config}")[2:] == expected
