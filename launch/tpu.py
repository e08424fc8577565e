#!/usr/bin/env python3
"""Runs experiments on Cloud TPU VMs, and deletes the VMs when they end.

launch/tpu.py run NAME --accelerator=v5litepod-16 --zone=us-central1-a --max-dollars=50 -- \\
    --config=experiments/... --workdir=gs://BUCKET/...
"""

from __future__ import annotations

import argparse
import inspect
import sys
from pathlib import Path
from typing import NoReturn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for use as a script

from launch.checks import error_message
from launch.commands import Commands
from launch.gcloud import GcloudError, LocalHost
from launch.lifecycle import CloudError
from launch.plan import Plan
from research.common.errors import UserError

COMMANDS = ("run", "attach", "status", "logs", "ssh", "stop", "delete", "list", "leaks")
MANUAL = ("create", "setup", "start")
METHODS = {"list": "launches"}  # commands whose method has another name
WITHOUT_NAME = ("list", "leaks")
WITH_DRY_RUN = ("run", "create", "setup", "start", "ssh", "delete")


class _Parser(argparse.ArgumentParser):
    """Prints an error as one line."""

    def error(self, message: str) -> NoReturn:
        print(f"error: {message}; see `{self.prog} --help`", file=sys.stderr)
        sys.exit(2)


def main(argv: list[str], local_host: LocalHost) -> int:
    """Runs a command and returns the exit code."""
    split = argv.index("--") if "--" in argv else len(argv)
    given = parser().parse_args(argv[:split])
    given.rest = argv[split + 1 :]
    if given.rest and given.command not in ("run", "start", "ssh"):
        parser().error(f"{given.command} takes no arguments after --")
    try:
        return getattr(Commands(given, local_host), METHODS.get(given.command, given.command))()
    except UserError as error:
        problem = str(error)
    except GcloudError as error:
        problem = error_message(error.kind, error.message)
    except CloudError as error:
        problem = (
            f"{error_message(error.kind, error.message)}; `leaks` lists the remaining resources"
        )
    except KeyboardInterrupt:
        print("interrupted; `leaks` lists the remaining resources", file=sys.stderr)
        return 130
    print(f"error: {' '.join(problem.split())}", file=sys.stderr)
    return 2


def parser() -> argparse.ArgumentParser:
    """Returns the parser of the arguments before `--`."""
    top = _Parser(
        prog="launch/tpu.py", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    subparsers = top.add_subparsers(
        dest="command", required=True, metavar="COMMAND", parser_class=_Parser
    )
    for name in (*COMMANDS, *MANUAL):
        about = (inspect.getdoc(getattr(Commands, METHODS.get(name, name))) or "").splitlines()[0]
        command = subparsers.add_parser(name, help=about, description=about)
        if name not in WITHOUT_NAME:
            command.add_argument("name", metavar="NAME")
        command.add_argument("--project", help="default: gcloud's")
        if name not in WITHOUT_NAME:
            command.add_argument("--zone", help="default: gcloud's compute/zone")
        command.add_argument("--json", action="store_true", help="print JSON")
        command.set_defaults(dry_run=False)
        if name in WITH_DRY_RUN:
            command.add_argument(
                "--dry-run", action="store_true", help="print the commands without running them"
            )
        _add_arguments(name, command)
    return top


def _add_arguments(name: str, command: argparse.ArgumentParser) -> None:
    if name in ("run", "create"):
        _add_machines(command)
    if name == "run":
        command.add_argument(
            "--no-plan", action="store_true", help="do not compile the step for the slice first"
        )
    if name in ("run", "setup"):
        command.add_argument("--data", help="TFDS datasets, gs://..., copied to each worker's disk")
        command.add_argument("--dirty", action="store_true", help="include uncommitted changes")
    if name == "setup":
        command.add_argument("--workdir", required=True, help="the run's workdir, gs://...")
    if name == "ssh":
        command.add_argument("--worker", type=int, default=0, help="worker index over all slices")


def _add_machines(command: argparse.ArgumentParser) -> None:
    command.add_argument("--accelerator", required=True, help="such as v5litepod-16")
    command.add_argument("--slices", type=int, help=f"default: {Plan.slices}")
    capacity = command.add_mutually_exclusive_group()
    for word in ("spot", "reserved", "flex-start"):
        capacity.add_argument(f"--{word}", action="store_const", const=word, dest="capacity")
    command.add_argument("--direct", action="store_true", help="create without the queue")
    for key in ("max-hours", "max-wait-hours", "lease-minutes", "stall-minutes"):
        default = getattr(Plan, key.replace("-", "_"))
        command.add_argument(f"--{key}", type=float, help=f"default: {default:g}")
    command.add_argument("--max-dollars", type=float, help="limit on the cost by list price")
    command.add_argument(
        "--tries", type=int, help=f"maximum number of attempts; default: {Plan.tries}"
    )
    for key in ("network", "subnetwork", "service-account", "runtime-version"):
        command.add_argument(f"--{key}")
    command.add_argument("--internal-ips", action="store_true", help="no external IP addresses")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], LocalHost()))
