"""Dependencies between the folders of `research/`; lazy imports of heavy libraries."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

RESEARCH = Path(__file__).parents[1] / "research"
# A folder may import from itself and from the folders after it. The commands, the modules of
# `research/` that are not contracts, come first.
FOLDERS = ("commands", "tasks", "exporting", "planning", "reporting", "training", "contracts")
FOLDERS = (*FOLDERS, "layers", "data", "weights", "hardware", "common")
CONTRACTS = ("task", "predictor")


def folder_of(module):
    parts = module.split(".")[1:]
    if not parts:
        return "common"
    if parts[0] in CONTRACTS:
        return "contracts"
    return parts[0] if parts[0] in FOLDERS else "commands"


def imports(path):
    """Returns the modules of the project that a file imports, also inside functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "research":
            if node.module == "research":
                yield from (f"research.{alias.name}" for alias in node.names)
            else:
                yield node.module
        elif isinstance(node, ast.Import):
            yield from (a.name for a in node.names if a.name.split(".")[0] == "research")


def is_type_checking_only(path, module):
    """Returns whether a module is imported only for annotations."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING":
            inner = [n.module for n in ast.walk(node) if isinstance(n, ast.ImportFrom)]
            if module in inner:
                return True
    return False


def test_no_folder_imports_from_a_folder_above_it():
    upward = []
    for path in sorted(RESEARCH.rglob("*.py")):
        name = ".".join(("research", *path.relative_to(RESEARCH).with_suffix("").parts))
        here = folder_of(name)
        for module in imports(path):
            there = folder_of(module)
            # The registry imports tasks by name.
            if (here, module) == ("contracts", "research.tasks"):
                continue
            above = FOLDERS.index(there) < FOLDERS.index(here)
            if above and not is_type_checking_only(path, module):
                upward.append(f"{name} -> {module}")
    assert not upward


def test_modules_do_not_import_in_circles():
    graph = {}
    for path in RESEARCH.rglob("*.py"):
        parts = path.relative_to(RESEARCH).with_suffix("").parts
        name = ".".join(("research", *(parts[:-1] if parts[-1] == "__init__" else parts)))
        graph[name] = set(top_level_imports(path))
    done, path = set(), []

    def visit(name):
        if name in path:
            pytest.fail(" -> ".join([*path[path.index(name) :], name]))
        if name in done or name not in graph:
            return
        path.append(name)
        for module in sorted(graph[name]):
            visit(module)
        path.pop()
        done.add(name)

    for name in sorted(graph):
        visit(name)


def top_level_imports(path):
    """Returns the modules of the project that are imported with a file."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "research":
            if node.module == "research":
                yield from (f"research.{alias.name}" for alias in node.names)
            else:
                yield node.module


IMPORTS = """
import importlib, sys
def loaded(module, *libraries):
    importlib.import_module(module)
    return [name for name in libraries if name in sys.modules]

for module in {modules}:
    assert not loaded(module, "PIL", "research.reporting.figures"), module
for task in {tasks}:
    assert not loaded(f"research.tasks.{{task}}.task", "research.reporting.figures"), task
"""
ENGINE = ("research.task", "research.training.loop", "research.training.evaluation")


def test_the_engine_imports_neither_figures_nor_pillow():
    tasks = [path.parent.name for path in (RESEARCH / "tasks").glob("*/task.py")]
    code = IMPORTS.format(modules=ENGINE, tasks=tasks)
    subprocess.run([sys.executable, "-c", code], check=True, cwd=RESEARCH.parent)
