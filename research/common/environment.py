"""The software and the machine that a run was made with."""

import os
import platform
import resource
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy")


def environment() -> dict[str, str]:
    """Returns the versions of Python and of the packages, the machine, and the Git commit."""
    facts = {"python": platform.python_version()} | {name: version(name) for name in _PACKAGES}
    facts["system"] = f"{platform.system()} {platform.release()}"
    facts["processor"] = f"{_processor()}, {os.cpu_count()} cores"
    if commit := git_commit(Path(__file__)):
        facts["commit"] = commit
    return facts


def git_commit(file: Path) -> str:
    """Returns the commit of the repository that tracks a file, with a note of local changes.

    "" if there is none: a package that was installed beside another repository has no commit.
    """
    try:
        _git(file, "ls-files", "--error-unmatch", file.name)
        changes = _git(file, "status", "--porcelain", "--untracked-files=no")
        return _git(file, "rev-parse", "HEAD") + (" with local changes" if changes else "")
    except (OSError, subprocess.SubprocessError):
        return ""


def peak_host_bytes() -> int:
    """Returns the largest memory that this process has used so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def _git(file: Path, *arguments: str) -> str:
    command = ["git", "-C", str(file.parent), *arguments]
    done = subprocess.run(command, capture_output=True, check=True, text=True, timeout=10)
    return done.stdout.strip()


def _processor() -> str:
    """Returns the model of the CPU."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return " ".join(line.partition(":")[2].split())
    except OSError:
        pass
    return platform.machine()
