#!/usr/bin/env python3
"""Launches experiments on Cloud TPU VMs, follows them, and leaves nothing that costs money.

launch/tpu.py run NAME --accelerator=v5litepod-16 --zone=us-central1-a --max-dollars=50 -- \\
    --config=experiments/... --workdir=gs://BUCKET/...
"""

from __future__ import annotations

import argparse
import inspect
import sys
from pathlib import Path
from typing import NoReturn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # it is run as a script

from launch.checks import in_words
from launch.commands import Commands
from launch.gcloud import GcloudError, Laptop
from launch.lifecycle import Refused
from launch.plan import Plan
from research.common.errors import UserError

VERBS = ("run", "attach", "status", "logs", "ssh", "stop", "delete", "list", "leaks")
BY_HAND = ("create", "setup", "start")
METHODS = {"list": "launches"}  # of all others the verb is the name
WITHOUT_NAME = ("list", "leaks")
REHEARSED = ("run", "create", "setup", "start", "ssh", "delete")


class _Parser(argparse.ArgumentParser):
    """Tells a mistake in one line."""

    def error(self, message: str) -> NoReturn:
        print(f"error: {message}; see `{self.prog} --help`", file=sys.stderr)
        sys.exit(2)


def main(argv: list[str], laptop: Laptop) -> int:
    """Runs a verb; returns the exit code."""
    split = argv.index("--") if "--" in argv else len(argv)
    given = parser().parse_args(argv[:split])
    given.rest = argv[split + 1 :]
    if given.rest and given.verb not in ("run", "start", "ssh"):
        parser().error(f"{given.verb} takes nothing after --")
    try:
        return getattr(Commands(given, laptop), METHODS.get(given.verb, given.verb))()
    except UserError as error:
        problem = str(error)
    except GcloudError as error:
        problem = in_words(error.kind, error.says)
    except Refused as error:
        problem = f"{in_words(error.kind, error.says)}; `leaks` lists what there is"
    except KeyboardInterrupt:
        print("interrupted; `leaks` lists what there is", file=sys.stderr)
        return 130
    print(f"error: {' '.join(problem.split())}", file=sys.stderr)
    return 2


def parser() -> argparse.ArgumentParser:
    """The command line, but for what stands behind `--`."""
    top = _Parser(
        prog="launch/tpu.py", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    verbs = top.add_subparsers(dest="verb", required=True, metavar="VERB", parser_class=_Parser)
    for name in (*VERBS, *BY_HAND):
        about = (inspect.getdoc(getattr(Commands, METHODS.get(name, name))) or "").splitlines()[0]
        verb = verbs.add_parser(name, help=about, description=about)
        if name not in WITHOUT_NAME:
            verb.add_argument("name", metavar="NAME")
        verb.add_argument("--project", help="default: gcloud's")
        if name not in WITHOUT_NAME:
            verb.add_argument("--zone", help="default: gcloud's compute/zone")
        verb.add_argument("--json", action="store_true", help="for programs")
        verb.set_defaults(dry_run=False)
        if name in REHEARSED:
            verb.add_argument("--dry-run", action="store_true", help="print the exact commands")
        _add_of_verb(name, verb)
    return top


def _add_of_verb(name: str, verb: argparse.ArgumentParser) -> None:
    if name in ("run", "create"):
        _add_machines(verb)
    if name in ("run", "setup"):
        verb.add_argument("--data", help="TFDS data sets, gs://..., copied to each worker's disk")
        verb.add_argument("--dirty", action="store_true", help="take uncommitted changes along")
    if name == "setup":
        verb.add_argument("--workdir", required=True, help="the run's folder, gs://...")
    if name == "ssh":
        verb.add_argument("--worker", type=int, default=0, help="counted over all slices")


def _add_machines(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--accelerator", required=True, help="such as v5litepod-16")
    verb.add_argument("--slices", type=int, help=f"default: {Plan.slices}")
    capacity = verb.add_mutually_exclusive_group()
    for word in ("spot", "reserved", "flex-start"):
        capacity.add_argument(f"--{word}", action="store_const", const=word, dest="capacity")
    verb.add_argument("--direct", action="store_true", help="now or never, without the queue")
    for key in ("max-hours", "max-wait-hours", "lease-minutes", "stall-minutes"):
        default = getattr(Plan, key.replace("-", "_"))
        verb.add_argument(f"--{key}", type=float, help=f"default: {default:g}")
    verb.add_argument("--max-dollars", type=float, help="a cap by the list price")
    verb.add_argument("--tries", type=int, help=f"after preemptions; default: {Plan.tries}")
    for key in ("network", "subnetwork", "service-account", "runtime-version"):
        verb.add_argument(f"--{key}")
    verb.add_argument("--internal-ips", action="store_true", help="no address on the internet")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], Laptop()))
