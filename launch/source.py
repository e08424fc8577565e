"""The code that the workers run: a commit, packed as an archive."""

from __future__ import annotations

import gzip
import io
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path

from research.common.errors import UserError

ROOT = Path(__file__).parents[1]
STAMP = "COMMIT"  # the file on the workers that contains the stamp


@dataclass(frozen=True)
class Source:
    """A state of the repository."""

    tree: str
    """The commit or tree hash."""

    stamp: str
    """The commit hash, with the suffix "-dirty" if uncommitted changes are included."""

    root: Path = ROOT

    def contains(self, path: str) -> bool:
        """Returns whether it contains a file, given by its path from the repository's root."""
        return _git(self.root, "cat-file", "-e", f"{self.tree}:{path}").returncode == 0

    def archive(self) -> bytes:
        """Returns a gzipped tar archive, including the stamp."""
        packed = _git(self.root, "archive", "--format=tar", self.tree)
        if packed.returncode:
            raise UserError(f"git cannot pack {self.tree}: {packed.stderr.decode().strip()}")
        buffer = io.BytesIO(packed.stdout)
        with tarfile.open(fileobj=buffer, mode="a") as tar:
            stamp = f"{self.stamp}\n".encode()
            entry = tarfile.TarInfo(STAMP)
            entry.size = len(stamp)
            tar.addfile(entry, io.BytesIO(stamp))
        return gzip.compress(buffer.getvalue(), mtime=0)


def snapshot(dirty: bool = False, root: Path = ROOT) -> Source:
    """Returns the committed code.

    Args:
      dirty: include uncommitted changes of tracked files, and mark the stamp.
      root: the root of the repository.

    Raises:
      UserError: `root` is not a repository, or it has changes and `dirty` is False.
    """
    head = _git(root, "rev-parse", "HEAD")
    if head.returncode:
        raise UserError(f"invalid repository {root}: expected a git repository with a commit")
    commit = head.stdout.decode().strip()
    changed = _git(root, "status", "--porcelain").stdout.decode().splitlines()
    if not changed:
        return Source(commit, commit, root)
    unknown = [line[3:] for line in changed if line.startswith("??")]
    if not dirty:
        which = ", ".join(line[3:] for line in changed[:3]) + (" ..." if len(changed) > 3 else "")
        raise UserError(f"uncommitted: {which}; commit, or include the changes with --dirty")
    if unknown:
        raise UserError(f"untracked file {unknown[0]}; `git add` it, or add it to .gitignore")
    stash = _git(root, "stash", "create")
    tree = stash.stdout.decode().strip()
    if stash.returncode or not tree:
        raise UserError(
            f"cannot include the uncommitted changes ({stash.stderr.decode().strip()}); commit"
        )
    return Source(tree, f"{commit}-dirty", root)


def _git(root: Path, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    try:
        return subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, check=False
        )
    except FileNotFoundError:
        raise UserError("git is not installed; it packs the code for the workers") from None
