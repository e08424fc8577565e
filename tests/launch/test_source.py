"""The code that is sent to the workers is the commit."""

import io
import os
import subprocess
import tarfile

import pytest

from launch.source import STAMP, snapshot
from research.common.errors import UserError

GIT = ("git", "-c", "user.name=a", "-c", "user.email=a@b")


@pytest.fixture(autouse=True)
def nobodys_git(tmp_path, monkeypatch):
    """Neither the user's own configuration, nor a repository around the test's folder."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))


@pytest.fixture
def root(tmp_path):
    """A repository with one commit."""
    root = tmp_path / "tree"
    (root / "folder").mkdir(parents=True)
    (root / "kept.py").write_text("kept = 1\n")
    (root / "folder/changed.py").write_text("changed = 0\n")
    (root / "folder/run.sh").write_text("true\n")
    (root / "folder/run.sh").chmod(0o755)
    (root / ".gitignore").write_text("*.log\n")
    git(root, "init", "-q")
    commit(root)
    return root


def git(root, *arguments):
    done = subprocess.run([*GIT, *arguments], cwd=root, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def commit(root):
    git(root, "add", ".")
    git(root, "commit", "-q", "-m", "a commit")


def files(source):
    """What a worker finds: contents by name."""
    with tarfile.open(fileobj=io.BytesIO(source.archive()), mode="r:gz") as tar:
        members = [member for member in tar.getmembers() if member.isfile()]
        assert len({member.name for member in members}) == len(members)
        return {member.name: tar.extractfile(member).read().decode() for member in members}


def test_the_commit_is_sent_with_its_stamp(root):
    head = git(root, "rev-parse", "HEAD")
    source = snapshot(root=root)
    assert source.stamp == head
    assert files(source) == {
        ".gitignore": "*.log\n",
        "kept.py": "kept = 1\n",
        "folder/changed.py": "changed = 0\n",
        "folder/run.sh": "true\n",
        STAMP: f"{head}\n",
    }


def test_later_changes_are_not_sent(root):
    """The commit was chosen; the folder, and even the branch, may go on."""
    source = snapshot(root=root)
    before = source.archive()
    (root / "folder/changed.py").write_text("changed = 1\n")
    assert files(source)["folder/changed.py"] == "changed = 0\n"
    commit(root)
    assert source.archive() == before
    assert files(snapshot(root=root))["folder/changed.py"] == "changed = 1\n"


def test_ignored_files_are_neither_an_error_nor_sent(root):
    (root / "a.log").write_text("noise")
    assert "a.log" not in files(snapshot(root=root))


def test_programs_can_be_run_there(root):
    with tarfile.open(fileobj=io.BytesIO(snapshot(root=root).archive()), mode="r:gz") as tar:
        assert tar.getmember("folder/run.sh").mode & 0o111
        assert not tar.getmember("kept.py").mode & 0o111


@pytest.mark.parametrize("staged", [True, False])
def test_uncommitted_changes_are_an_error(root, staged):
    (root / "folder/changed.py").write_text("changed = 1\n")
    if staged:
        git(root, "add", ".")
    with pytest.raises(UserError, match=r"^uncommitted: folder/changed.py; commit, .* --dirty$"):
        snapshot(root=root)


def test_of_many_changes_some_are_named(root):
    for number in range(5):
        (root / f"new{number}.py").touch()
    with pytest.raises(UserError, match=r"^uncommitted: new0.py, new1.py, new2.py \.\.\.;"):
        snapshot(root=root)


def test_dirty_changes_are_sent_and_stamped(root):
    head = git(root, "rev-parse", "HEAD")
    (root / "folder/changed.py").write_text("changed = 1\n")
    (root / "kept.py").unlink()
    (root / "new.py").write_text("new = 1\n")
    git(root, "add", "new.py")
    before = git(root, "status", "--porcelain")
    source = snapshot(dirty=True, root=root)
    assert source.stamp == f"{head}-dirty"
    sent = files(source)
    assert sent[STAMP] == f"{head}-dirty\n"
    assert sent["folder/changed.py"] == "changed = 1\n"
    assert sent["new.py"] == "new = 1\n"
    assert "kept.py" not in sent
    # The user's folder is as it was, and nothing lies in the stash.
    assert git(root, "status", "--porcelain") == before
    assert git(root, "stash", "list") == ""
    assert git(root, "rev-parse", "HEAD") == head


def test_dirty_without_changes_is_the_commit(root):
    assert snapshot(dirty=True, root=root) == snapshot(root=root)


def test_untracked_files_are_an_error_even_with_dirty(root):
    (root / "folder/changed.py").write_text("changed = 1\n")
    (root / "new.py").touch()
    with pytest.raises(
        UserError, match=r"^untracked file new.py; `git add` it, or add it to .gitignore$"
    ):
        snapshot(dirty=True, root=root)


def test_contains_searches_the_sent_files(root):
    source = snapshot(root=root)
    (root / "new.py").touch()
    assert source.contains("folder/changed.py")
    assert not source.contains("new.py") and not source.contains("folder/other.py")
    git(root, "add", "new.py")
    assert snapshot(dirty=True, root=root).contains("new.py")


def test_no_repository(tmp_path):
    with pytest.raises(UserError, match="invalid repository"):
        snapshot(root=tmp_path)


def test_a_repository_without_a_commit(tmp_path):
    git(tmp_path, "init", "-q")
    with pytest.raises(UserError, match="invalid repository"):
        snapshot(root=tmp_path)


def test_without_git(root, monkeypatch):
    monkeypatch.setenv("PATH", str(root))
    with pytest.raises(UserError, match="git is not installed"):
        snapshot(root=root)
