"""The commands of `launch/tpu.py`."""

from __future__ import annotations

import argparse
import dataclasses
import math
import os
import shlex
import time
from pathlib import Path

from launch import checks, cloud_tpu, compute_engine
from launch.cloud import Cloud, Resources, State
from launch.fit import check_fit
from launch.gcloud import Argv, GcloudError, Kind, LocalHost
from launch.inventory import Item, billable_resources
from launch.lifecycle import Launch
from launch.plan import Plan
from launch.screen import Screen, format_cost
from launch.source import snapshot
from launch.workers import (
    Workers,
    begin_command,
    begin_script,
    code_path,
    poll_command,
    start_command,
)
from research.common.errors import UserError

EXIT = {"finished": 0, "idle": 0}  # of all other outcomes 1
DETACHED = 130


def cloud_of(plan: Plan) -> Cloud:
    """Returns the cloud API that offers the plan's accelerator type."""
    if plan.slice.api == "compute":
        return compute_engine.ComputeEngine(plan)
    return cloud_tpu.CloudTPU(plan)


def _remedy(item: Item) -> str:
    """Returns the command that deletes a resource, or the whole launch that created it."""
    if item.plan is None:
        return shlex.join(item.delete)
    return f"launch/tpu.py delete {item.plan.name} --zone={item.plan.zone}"


class Commands:
    """One method per command; each returns the exit code.

    Raises:
      UserError, GcloudError, CloudError: `launch/tpu.py` prints them as one line.
    """

    def __init__(self, arguments: argparse.Namespace, local_host: LocalHost):
        self._args, self._local_host = arguments, local_host
        self._screen = Screen(arguments.json)

    def run(self) -> int:
        """Create a slice, train on it, follow the logs, and delete it."""
        plan, args = self._plan_from_args(), self._args
        if args.dry_run:
            return self._dry_run(plan)
        checks.check_gcloud(self._local_host)
        source = snapshot(args.dirty)
        plan = dataclasses.replace(plan, commit=source.stamp)
        self._screen.cost(plan)
        checks.check_arguments(plan, source)
        if not args.no_plan:
            self._screen.log("predicted", check_fit(plan, self._local_host))
        checks.check_name_is_free(cloud_of(plan), self._local_host)
        checks.send_code(plan, source, self._local_host)
        attempt = 1 + checks.last_attempt(plan, self._local_host)
        return self._follow(dataclasses.replace(plan, attempt=attempt), exists=False)

    def attach(self) -> int:
        """Follow a run that was started earlier or on another machine."""
        return self._follow(self._find_plan(), exists=True)

    def create(self) -> int:
        """Create VMs for interactive use; only their time limit deletes them."""
        plan = self._plan_from_args()
        plan = dataclasses.replace(plan, lease_minutes=plan.max_hours * 60)
        cloud = cloud_of(plan)
        if self._args.dry_run:
            return self._print(cloud.create(Path("plan.json")))
        checks.check_gcloud(self._local_host)
        self._screen.cost(plan)
        checks.check_name_is_free(cloud, self._local_host)
        launch = self._launch(cloud, exists=False)
        try:
            outcome = launch.run(until_ready=True)
        except KeyboardInterrupt:
            launch.delete()
            return DETACHED
        self._screen.log(outcome.kind, outcome.text)
        return EXIT.get(outcome.kind, 1)

    def setup(self) -> int:
        """Install the committed code and its environment on all workers."""
        args = self._args
        plan = dataclasses.replace(self._find_plan(), workdir=args.workdir, data=args.data or "")
        if args.dry_run:
            return self._print(self._ssh_commands(plan, begin_command(plan)))
        workers = Workers(cloud_of(plan), self._local_host)
        resources = self._require_ready(plan)
        if any(reply.state in ("starting", "running") for reply in workers.poll(resources, {})):
            raise UserError(
                f"a training is running on {plan.name}; stop it with `stop {plan.name}`"
            )
        checks.send_code(plan, snapshot(args.dirty), self._local_host)
        workers.begin(resources)
        return self._report(plan, workers, resources, wanted="idle")

    def start(self) -> int:
        """Start a training on workers after `setup`, in the background."""
        plan = self._with_training(self._find_plan())
        if self._args.dry_run:
            return self._print(self._ssh_commands(plan, start_command(plan)))
        checks.check_arguments(plan, snapshot(dirty=True))
        workers = Workers(cloud_of(plan), self._local_host)
        resources = self._require_ready(plan)
        workers.start(resources)
        return self._report(plan, workers, resources, wanted="running")

    def status(self) -> int:
        """Show the state of the VMs and of the training."""
        plan = self._find_plan()
        cloud = cloud_of(plan)
        resources = cloud.describe(self._local_host)
        ready = resources.state is State.READY
        replies = Workers(cloud, self._local_host).poll(resources, {}) if ready else []
        states = {str(i): f"{reply.state}, step {reply.step}" for i, reply in enumerate(replies)}
        facts = {"name": plan.name, "state": resources.state.value, "detail": resources.detail}
        facts |= {"cost": format_cost(plan), "commit": plan.commit}
        facts["attempt"] = f"{plan.attempt}, and {plan.tries - 1} more"
        if deadline := max((reply.deadline for reply in replies), default=0.0):
            facts["deadline"] = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(deadline))
        if self._args.json:
            self._screen.value(facts | {"workers": states})
            return 0
        rows = facts | {f"worker {rank}": words for rank, words in states.items()}
        for name, value in rows.items():
            print(f"{name:10} {value}")
        return 0

    def logs(self) -> int:
        """Print all logs of this attempt, each line with its worker."""
        plan = self._find_plan()
        resources, offsets = self._require_ready(plan), dict[int, int]()
        while True:
            replies = Workers(cloud_of(plan), self._local_host).poll(resources, offsets)
            for reply in replies:
                offsets[reply.rank] = reply.offset
                for line in reply.log.splitlines():
                    self._screen.log(f"log {reply.rank}", line)
            if not any(reply.log for reply in replies):
                return 0

    def ssh(self) -> int:
        """Open a terminal on a worker, or run a command there."""
        plan, worker = self._find_plan(), self._args.worker
        commands = self._ssh_commands(plan, " ".join(self._args.rest))  # joined as ssh does
        if not 0 <= worker < len(commands):
            raise UserError(
                f"invalid --worker={worker}: {plan.name} has workers 0 to {len(commands) - 1}"
            )
        if not self._args.dry_run:
            os.execvp(commands[worker][0], commands[worker])
        return self._print([commands[worker]])

    def stop(self) -> int:
        """Stop the training after a checkpoint; who follows it then deletes the VMs."""
        plan = self._find_plan()
        workers = Workers(cloud_of(plan), self._local_host)
        resources = self._require_ready(plan)
        workers.stop(resources)
        return self._report(plan, workers, resources, wanted="stopped")

    def delete(self) -> int:
        """Delete all resources of a launch, and wait until they are gone."""
        cloud = cloud_of(self._find_plan())
        if self._args.dry_run:
            return self._print(cloud.delete())
        self._launch(cloud, exists=True).delete()
        self._screen.log("deleted", f"all resources of {cloud.plan.name} are deleted")
        return 0

    def launches(self) -> int:
        """List the launches of the project."""
        found = billable_resources(self._local_host, self._project())
        self._screen.items([item for item in found if item.plan])
        return 0

    def leaks(self) -> int:
        """List all resources that cost money or quota; exit code 1 if there are any."""
        items = billable_resources(self._local_host, self._project())
        self._screen.items(items)
        if not self._args.json:
            for remedy in dict.fromkeys(_remedy(item) for item in items):
                print(f"# {remedy}")
            print(f"{len(items)} resources cost money or quota" if items else "nothing costs money")
        return 1 if items else 0

    def _follow(self, plan: Plan, exists: bool) -> int:
        launch = self._launch(cloud_of(plan), exists)
        try:
            outcome = launch.run()
        except KeyboardInterrupt:
            name = f"{plan.name} --zone={plan.zone}"
            if launch.is_training or exists:
                text = (
                    f"the training continues; `attach {name}` follows it, `delete {name}` ends it"
                )
                self._screen.log("detached", text)
            else:
                self._screen.log("interrupted", "deleting all resources")
                launch.delete()
            return DETACHED
        self._screen.outcome(outcome, plan)
        return EXIT.get(outcome.kind, 1)

    def _launch(self, cloud: Cloud, exists: bool) -> Launch:
        return Launch(cloud, self._local_host, self._screen.log, cloud_of, exists)

    def _plan_from_args(self) -> Plan:
        """Returns the plan that the command line describes."""
        args = self._args
        named = {field.name for field in dataclasses.fields(Plan)}
        values = {
            key: value for key, value in vars(args).items() if key in named and value is not None
        }
        plan = Plan(
            **values | {"project": self._project(), "zone": self._zone(), "queued": not args.direct}
        )
        plan.slice.check_zone(plan.zone)
        cloud_of(plan)
        if args.max_dollars is not None:
            plan = self._with_dollar_cap(plan, args.max_dollars)
        return self._with_training(plan) if args.command == "run" else plan

    def _with_dollar_cap(self, plan: Plan, dollars: float) -> Plan:
        """Returns the plan with a limit in dollars converted to hours."""
        if not 0 < dollars < math.inf:
            raise UserError(f"invalid --max-dollars={dollars:g}: expected more than 0")
        price = plan.dollars_per_hour
        if price is None:
            raise UserError(f"invalid --max-dollars: unknown price in {plan.zone}; use --max-hours")
        return dataclasses.replace(plan, max_hours=min(plan.max_hours, dollars / price))

    def _with_training(self, plan: Plan) -> Plan:
        """Returns the plan with the workdir and the arguments after `--`."""
        rest = self._args.rest
        workdirs = [text[10:] for text in rest if text.startswith("--workdir=")]
        if not workdirs:
            raise UserError(
                "missing --workdir: write `-- --config=experiments/... --workdir=gs://...`"
            )
        arguments = tuple(text for text in rest if not text.startswith("--workdir="))
        return dataclasses.replace(plan, workdir=workdirs[-1].rstrip("/"), arguments=arguments)

    def _find_plan(self) -> Plan:
        """Returns the plan of the launch with the given name."""
        checks.check_gcloud(self._local_host)
        name, project, zone = self._args.name, self._project(), self._zone()
        where = [f"--project={project}", f"--zone={zone}"]
        region = [f"--project={project}", f"--region={zone.rpartition('-')[0]}"]
        for find, flags in ((cloud_tpu.find, where), (compute_engine.find, region)):
            try:
                if plan := find(self._local_host, name, flags):
                    return plan
            except GcloudError as error:
                if error.kind is not Kind.DISABLED:
                    raise
        raise UserError(f"unknown launch {name} in {zone} of {project}; `list` shows all launches")

    def _require_ready(self, plan: Plan) -> Resources:
        resources = cloud_of(plan).describe(self._local_host)
        if resources.state is not State.READY:
            raise UserError(f"{plan.name} is {resources.state.value}; `status` shows details")
        return resources

    def _report(self, plan: Plan, workers: Workers, resources: Resources, wanted: str) -> int:
        """Prints the workers' states; returns 1 unless all are in the wanted one."""
        errors, replies = workers.errors, workers.poll(resources, {})
        for reply in replies:
            self._screen.log(f"worker {reply.rank}", reply.state)
        well = ("starting", wanted) if wanted == "running" else (wanted,)
        good = [reply for reply in replies if reply.state in well]
        if len(good) < plan.workers and errors:
            self._screen.log("error", errors[-2000:])
        return 0 if len(good) == plan.workers else 1

    def _dry_run(self, plan: Plan) -> int:
        """Prints the commands of a run without failures."""
        cloud = cloud_of(plan)
        send = ["gcloud", "storage", "cp", "code.tar.gz", code_path(plan.workdir), "--quiet"]
        self._comment(format_cost(plan))
        self._print([send, *cloud.create(Path("plan.json"))])
        begin = begin_script(plan)
        self._comment(f"plan.json: {plan.metadata(cloud.delete(), begin)}")
        self._comment("each VM sets itself up and starts the training; then, every 10 seconds:")
        self._print(self._ssh_commands(plan, poll_command({})))
        self._comment("at the end:")
        return self._print(cloud.delete())

    def _comment(self, text: str) -> None:
        if not self._args.json:
            print(f"# {text}")

    def _ssh_commands(self, plan: Plan, command: str) -> list[Argv]:
        """Returns the SSH commands for all workers, with assumed VM names in a dry run."""
        cloud, names = cloud_of(plan), tuple(f"{plan.name}-{n}" for n in range(plan.workers))
        rehearsal = self._args.dry_run and self._args.command == "run"
        found = Resources(State.READY, "", names) if rehearsal else cloud.describe(self._local_host)
        return cloud.ssh(command, found)

    def _print(self, commands: list[Argv]) -> int:
        for argv in commands:
            if self._args.json:
                self._screen.value(argv)
            else:
                print(shlex.join(argv))
        return 0

    def _project(self) -> str:
        return self._args.project or checks.gcloud_property(
            self._local_host, "project", "--project"
        )

    def _zone(self) -> str:
        return self._args.zone or checks.gcloud_property(self._local_host, "compute/zone", "--zone")
