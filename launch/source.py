"""The code that is sent to the workers: exactly what is committed."""

from __future__ import annotations

import gzip
import io
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path

from research.common.errors import UserError

ROOT = Path(__file__).parents[1]
STAMP = "COMMIT"  # the file that says at the workers what was sent


@dataclass(frozen=True)
class Source:
    """A state of the repository."""

    tree: str
    """What git calls it."""

    stamp: str
    """What is written down: the commit, with "-dirty" where changes were taken along."""

    root: Path = ROOT

    def holds(self, path: str) -> bool:
        """Whether a file, named from the root of the repository, is part of it."""
        return _git(self.root, "cat-file", "-e", f"{self.tree}:{path}").returncode == 0

    def archive(self) -> bytes:
        """A gzipped tar of it, with its stamp."""
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


def take(dirty: bool = False, root: Path = ROOT) -> Source:
    """The code as it is committed.

    Args:
      dirty: take changes of known files along, and say so in the stamp.
      root: of the repository.

    Raises:
      UserError: it is no repository; or it has changes, and `dirty` was not said.
    """
    head = _git(root, "rev-parse", "HEAD")
    if head.returncode:
        raise UserError(f"{root} is no git repository with a commit; the workers get a commit")
    commit = head.stdout.decode().strip()
    changed = _git(root, "status", "--porcelain").stdout.decode().splitlines()
    if not changed:
        return Source(commit, commit, root)
    unknown = [line[3:] for line in changed if line.startswith("??")]
    if not dirty:
        which = ", ".join(line[3:] for line in changed[:3]) + (" ..." if len(changed) > 3 else "")
        raise UserError(f"uncommitted: {which}; commit, or take changes along by --dirty")
    if unknown:
        raise UserError(f"git does not know {unknown[0]}; `git add` it, or ignore it")
    stash = _git(root, "stash", "create")
    tree = stash.stdout.decode().strip()
    if stash.returncode or not tree:
        raise UserError(
            f"git cannot take the changes along ({stash.stderr.decode().strip()}); commit"
        )
    return Source(tree, f"{commit}-dirty", root)


def _git(root: Path, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    try:
        return subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, check=False
        )
    except FileNotFoundError:
        raise UserError("git is not installed; the workers get a commit of the code") from None
