"""Polymath: one small JAX/Flax codebase that learns to see, hear, read and translate."""

import sys

if sys.argv[:1] == ["-m"]:  # Python is about to import a command, `python -m research.train`
    from research.common.interrupts import end_imports_quietly

    end_imports_quietly()
