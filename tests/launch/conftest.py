"""A fake cloud, and a repository to launch from."""

import shutil
import subprocess

import pytest

from launch import commands, source
from tests.launch.twin.faults import Faults
from tests.launch.twin.simulation import World


@pytest.fixture
def world():
    return World(Faults(), steps=200)


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """A repository with an experiment, which is what the launcher sends."""
    root = tmp_path / "tree"
    (root / "experiments").mkdir(parents=True)
    (root / "experiments/mine.py").write_text("")
    git = ["git", "-C", str(root), "-c", "user.name=a", "-c", "user.email=a@b"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "one"]):
        subprocess.run([*git, *command], check=True)
    monkeypatch.setattr(commands, "snapshot", lambda dirty=False: source.snapshot(dirty, root))
    return root


@pytest.fixture
def gcloud(tmp_path, monkeypatch):
    """An executable on the path; the simulated cloud answers its calls."""
    (tmp_path / "bin").mkdir()
    path = tmp_path / "bin" / "gcloud"
    path.write_text("")
    path.chmod(0o755)
    (path.parent / "git").symlink_to(str(shutil.which("git")))
    monkeypatch.setenv("PATH", str(path.parent))
    return path
