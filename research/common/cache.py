"""The user's cache folder."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """Returns the project's folder in the user's cache; it may not exist yet."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "polymath"
