import shutil
import subprocess
import sys

import pytest

from research.common.environment import environment, git_commit, peak_host_bytes


def git(folder, *arguments):
    identity = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    command = ["git", *identity, "-C", str(folder), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_the_environment_has_versions_and_the_machine():
    facts = environment()
    assert facts["python"] == ".".join(map(str, sys.version_info[:3]))
    assert {"jax", "flax", "numpy", "system", "processor"} <= facts.keys()
    assert all(isinstance(value, str) and value for value in facts.values())
    assert peak_host_bytes() > 50e6


@pytest.mark.skipif(shutil.which("git") is None, reason="git is missing")
def test_the_commit_is_that_of_the_repository_that_tracks_the_file(tmp_path):
    file = tmp_path / "module.py"
    file.write_text("a = 1")
    assert git_commit(file) == ""
    git(tmp_path, "init", "--quiet")
    assert git_commit(file) == ""  # not tracked, as a package in the .venv of another project
    git(tmp_path, "add", "module.py")
    git(tmp_path, "commit", "--quiet", "-m", "one")
    assert git_commit(file) == git(tmp_path, "rev-parse", "HEAD")
    file.write_text("a = 2")
    assert git_commit(file) == git(tmp_path, "rev-parse", "HEAD") + " with local changes"
