"""The console command `polymath`, and the help of all commands."""

import importlib
import sys
import tomllib
from pathlib import Path

import pytest
from absl import flags

from research.__main__ import COMMANDS, main
from research.training.experiment import load_experiment

ROOT = Path(__file__).parents[1]


def test_every_command_is_listed_with_its_purpose(monkeypatch, capsys):
    found = {
        path.stem
        for path in (ROOT / "research").glob("*.py")
        if "def run_command" in path.read_text()
    }
    assert found == set(COMMANDS)
    for arguments in ([], ["--help"], ["-h"]):
        monkeypatch.setattr(sys, "argv", ["polymath", *arguments])
        main()
        listed = capsys.readouterr().out.partition("Commands:\n")[2]
        assert [line.split()[0] for line in listed.splitlines()] == list(COMMANDS)
        assert "  evaluate   Evaluates a trained run on a split" in listed


def test_pip_installs_the_console_command_and_the_experiments():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    module, function = settings["project"]["scripts"]["polymath"].split(":")
    assert getattr(importlib.import_module(module), function) is main
    assert "experiments*" in settings["tool"]["setuptools"]["packages"]["find"]["include"]


def test_an_experiment_is_found_from_any_folder(monkeypatch, tmp_path):
    """After `pip install`, beside the package."""
    monkeypatch.chdir(tmp_path)
    path = Path("experiments/image_classification/digits_mlp.py")
    assert load_experiment(path).task.model.widths == (512, 256)
    path.parent.mkdir(parents=True)
    text = (ROOT / path).read_text().replace("(512, 256)", "(8,)")
    path.write_text(text)
    assert load_experiment(path).task.model.widths == (8,)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_lists_every_flag(command, in_process, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["polymath", command, "--help"])
    with pytest.raises(SystemExit) as end:
        main()
    help_text = capsys.readouterr().out
    assert end.value.code == 0
    assert f"polymath {command} " in help_text and "python -m" not in help_text
    defined = flags.FLAGS.get_key_flags_for_module(f"research.{command}")
    assert defined
    for flag in defined:
        _, described, after = help_text.partition(f"\n  --{'[no]' * flag.boolean}{flag.name}")
        assert described and flag.help.split()[0] in after
    assert max(map(len, help_text.splitlines())) <= 110
    assert "repeat this option" not in help_text and "(default '" not in help_text


def test_help_says_which_flags_are_repeated_and_shows_defaults_as_they_are_written(
    in_process, monkeypatch, capsys
):
    monkeypatch.setattr(sys, "argv", ["polymath", "evaluate", "--help"])
    with pytest.raises(SystemExit):
        main()
    words = " ".join(capsys.readouterr().out.split())
    assert "such as --change=task.decoding.beam_size=8. May be repeated. --" in words
    assert "the newest ones. (default 1)" in words and "to evaluate. (default test)" in words
