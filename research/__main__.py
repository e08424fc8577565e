"""Runs a command of the project.

polymath train --config=experiments/image_classification/digits_cnn.py --workdir=runs/digits_cnn
polymath train --help
"""

import ast
import importlib
import sys
from pathlib import Path

from research.common.interrupts import end_imports_quietly

COMMANDS = ("train", "evaluate", "predict", "export", "report", "config", "plan", "benchmark")


def main() -> None:
    """Runs the command that the first argument names, or lists all commands."""
    end_imports_quietly()
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in ("-h", "--help"):
        print(f"{(__doc__ or '').strip()}\n\nCommands:")
        print("\n".join(f"  {name:10} {_summary(name)}" for name in COMMANDS))
        return
    if name not in COMMANDS:
        print(f"error: {_problem(name)}", file=sys.stderr)
        sys.exit(2)
    sys.argv = [f"polymath {name}", *sys.argv[2:]]
    importlib.import_module(f"research.{name}").run_command()


def _problem(name: str) -> str:
    from research.common.config import suggest  # imports libraries, which takes a second

    if name.startswith("-"):
        return f"missing command before {name}; {suggest('', COMMANDS)}"
    return f"unknown command '{name}'; {suggest(name, COMMANDS)}"


def _summary(command: str) -> str:
    """Returns the first line of a command's docstring, without importing its libraries."""
    source = Path(__file__).with_name(f"{command}.py").read_text()
    return (ast.get_docstring(ast.parse(source)) or "").partition("\n")[0]


if __name__ == "__main__":
    main()
