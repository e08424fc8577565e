"""The verbs of `launch/tpu.py`."""

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
from launch.gcloud import Argv, GcloudError, Kind, Laptop
from launch.inventory import Item, everything
from launch.lifecycle import Launch
from launch.plan import Plan
from launch.screen import Screen, cost_in_words
from launch.source import take
from launch.workers import (
    Workers,
    begin_command,
    begin_script,
    code_place,
    poll_command,
    start_command,
)
from research.common.errors import UserError

EXIT = {"finished": 0, "idle": 0}  # of all other outcomes 1
DETACHED = 130


def cloud_of(plan: Plan) -> Cloud:
    """The interface of Google's that has the plan's accelerator."""
    if plan.slice.api == "compute":
        return compute_engine.ComputeEngine(plan)
    return cloud_tpu.CloudTPU(plan)


def _remedy(item: Item) -> str:
    """The command that deletes something; what a launch made goes together."""
    if item.plan is None:
        return shlex.join(item.delete)
    return f"launch/tpu.py delete {item.plan.name} --zone={item.plan.zone}"


class Commands:
    """One method for each verb; each returns the exit code.

    Raises:
      UserError, GcloudError, Refused: as told by `launch/tpu.py` in one line.
    """

    def __init__(self, arguments: argparse.Namespace, laptop: Laptop):
        self._given, self._laptop = arguments, laptop
        self._screen = Screen(arguments.json)

    def run(self) -> int:
        """Creates, trains, follows and deletes."""
        plan, given = self._planned(), self._given
        if given.dry_run:
            return self._rehearse(plan)
        checks.check_gcloud(self._laptop)
        source = take(given.dirty)
        plan = dataclasses.replace(plan, commit=source.stamp)
        self._screen.cost(plan)
        # Whether the step fits the slice is to be asked here, before anything costs.
        checks.check_arguments(plan, source)
        checks.check_free(cloud_of(plan), self._laptop)
        checks.send_code(plan, source, self._laptop)
        attempt = 1 + checks.attempts(plan, self._laptop)
        return self._carry_through(dataclasses.replace(plan, attempt=attempt), exists=False)

    def attach(self) -> int:
        """Follows a run that another laptop, or an earlier day, began."""
        return self._carry_through(self._found(), exists=True)

    def create(self) -> int:
        """Creates machines to work on by hand; only their cap ends them."""
        plan = self._planned()
        plan = dataclasses.replace(plan, lease_minutes=plan.max_hours * 60)
        cloud = cloud_of(plan)
        if self._given.dry_run:
            return self._print(cloud.create(Path("plan.json")))
        checks.check_gcloud(self._laptop)
        self._screen.cost(plan)
        checks.check_free(cloud, self._laptop)
        launch = self._launch(cloud, exists=False)
        try:
            outcome = launch.run(until_ready=True)
        except KeyboardInterrupt:
            launch.delete()
            return DETACHED
        self._screen.tell(outcome.kind, outcome.text)
        return EXIT.get(outcome.kind, 1)

    def setup(self) -> int:
        """Brings the committed code and its environment to all workers."""
        given = self._given
        plan = dataclasses.replace(self._found(), workdir=given.workdir, data=given.data or "")
        if given.dry_run:
            return self._print(self._over_ssh(plan, begin_command(plan)))
        workers = Workers(cloud_of(plan), self._laptop)
        resources = self._ready(plan)
        if any(reply.state in ("starting", "running") for reply in workers.poll(resources, {})):
            raise UserError(f"a training runs on {plan.name}; `stop {plan.name}` ends it")
        checks.send_code(plan, take(given.dirty), self._laptop)
        workers.begin(resources)
        return self._answered(plan, workers, resources, wanted="idle")

    def start(self) -> int:
        """Starts a training on workers that are set up, and returns."""
        plan = self._with_training(self._found())
        if self._given.dry_run:
            return self._print(self._over_ssh(plan, start_command(plan)))
        checks.check_arguments(plan, take(dirty=True))
        workers = Workers(cloud_of(plan), self._laptop)
        resources = self._ready(plan)
        workers.start(resources)
        return self._answered(plan, workers, resources, wanted="running")

    def status(self) -> int:
        """How machines and training are."""
        plan = self._found()
        cloud = cloud_of(plan)
        resources = cloud.describe(self._laptop)
        ready = resources.state is State.READY
        replies = Workers(cloud, self._laptop).poll(resources, {}) if ready else []
        said = {str(i): f"{reply.state}, step {reply.step}" for i, reply in enumerate(replies)}
        facts = {"name": plan.name, "state": resources.state.value, "detail": resources.detail}
        facts |= {"cost": cost_in_words(plan), "commit": plan.commit}
        facts["attempt"] = f"{plan.attempt}, and {plan.tries - 1} more"
        if deadline := max((reply.deadline for reply in replies), default=0.0):
            facts["deadline"] = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(deadline))
        if self._given.json:
            self._screen.value(facts | {"workers": said})
            return 0
        rows = facts | {f"worker {rank}": words for rank, words in said.items()}
        for name, value in rows.items():
            print(f"{name:10} {value}")
        return 0

    def logs(self) -> int:
        """All logs of this attempt so far, each line tagged by its worker."""
        plan = self._found()
        resources, offsets = self._ready(plan), dict[int, int]()
        while True:
            replies = Workers(cloud_of(plan), self._laptop).poll(resources, offsets)
            for reply in replies:
                offsets[reply.rank] = reply.offset
                for line in reply.log.splitlines():
                    self._screen.tell(f"log {reply.rank}", line)
            if not any(reply.log for reply in replies):
                return 0

    def ssh(self) -> int:
        """A terminal on one worker, or a command there."""
        plan, worker = self._found(), self._given.worker
        commands = self._over_ssh(plan, " ".join(self._given.rest))  # as ssh does
        if not 0 <= worker < len(commands):
            raise UserError(f"--worker={worker}: {plan.name} has workers 0 to {len(commands) - 1}")
        if not self._given.dry_run:
            os.execvp(commands[worker][0], commands[worker])
        return self._print([commands[worker]])

    def stop(self) -> int:
        """Stops the training, which saves; whoever follows it deletes the machines."""
        plan = self._found()
        workers = Workers(cloud_of(plan), self._laptop)
        resources = self._ready(plan)
        workers.stop(resources)
        return self._answered(plan, workers, resources, wanted="stopped")

    def delete(self) -> int:
        """Deletes everything of that name, and waits until it is gone."""
        cloud = cloud_of(self._found())
        if self._given.dry_run:
            return self._print(cloud.delete())
        self._launch(cloud, exists=True).delete()
        self._screen.tell("deleted", f"nothing is left of {cloud.plan.name}")
        return 0

    def launches(self) -> int:
        """The launches of this project."""
        found = everything(self._laptop, self._project())
        self._screen.items([item for item in found if item.plan])
        return 0

    def leaks(self) -> int:
        """Everything that costs money or quota, whoever made it; exit code 1 if there is any."""
        items = everything(self._laptop, self._project())
        self._screen.items(items)
        if not self._given.json:
            for remedy in dict.fromkeys(_remedy(item) for item in items):
                print(f"# {remedy}")
            print(f"{len(items)} things cost money or quota" if items else "nothing costs money")
        return 1 if items else 0

    def _carry_through(self, plan: Plan, exists: bool) -> int:
        launch = self._launch(cloud_of(plan), exists)
        try:
            outcome = launch.run()
        except KeyboardInterrupt:
            name = f"{plan.name} --zone={plan.zone}"
            if launch.trains or exists:
                text = f"the training goes on; `attach {name}` follows, `delete {name}` ends it"
                self._screen.tell("detached", text)
            else:
                self._screen.tell("interrupted", "deleting what was made")
                launch.delete()
            return DETACHED
        self._screen.outcome(outcome, plan)
        return EXIT.get(outcome.kind, 1)

    def _launch(self, cloud: Cloud, exists: bool) -> Launch:
        return Launch(cloud, self._laptop, self._screen.tell, cloud_of, exists)

    def _planned(self) -> Plan:
        """The plan that the command line describes."""
        given = self._given
        named = {field.name for field in dataclasses.fields(Plan)}
        values = {
            key: value for key, value in vars(given).items() if key in named and value is not None
        }
        plan = Plan(
            **values
            | {"project": self._project(), "zone": self._zone(), "queued": not given.direct}
        )
        plan.slice.check_zone(plan.zone)
        cloud_of(plan)
        if given.max_dollars is not None:
            plan = self._within(plan, given.max_dollars)
        return self._with_training(plan) if given.verb == "run" else plan

    def _within(self, plan: Plan, dollars: float) -> Plan:
        """The plan with the cap in hours that a cap in dollars means."""
        if not 0 < dollars < math.inf:
            raise UserError(f"--max-dollars={dollars:g} must be more than 0")
        price = plan.dollars_per_hour
        if price is None:
            raise UserError(f"--max-dollars: no price is known for {plan.zone}; use --max-hours")
        return dataclasses.replace(plan, max_hours=min(plan.max_hours, dollars / price))

    def _with_training(self, plan: Plan) -> Plan:
        """The plan with what stands behind `--`; the workdir is known to the launcher too."""
        rest = self._given.rest
        workdirs = [text[10:] for text in rest if text.startswith("--workdir=")]
        if not workdirs:
            raise UserError("no --workdir; write `-- --config=experiments/... --workdir=gs://...`")
        arguments = tuple(text for text in rest if not text.startswith("--workdir="))
        return dataclasses.replace(plan, workdir=workdirs[-1].rstrip("/"), arguments=arguments)

    def _found(self) -> Plan:
        """The plan of what there is under the name that was given."""
        checks.check_gcloud(self._laptop)
        name, project, zone = self._given.name, self._project(), self._zone()
        where = [f"--project={project}", f"--zone={zone}"]
        region = [f"--project={project}", f"--region={zone.rpartition('-')[0]}"]
        for find, flags in ((cloud_tpu.find, where), (compute_engine.find, region)):
            try:
                if plan := find(self._laptop, name, flags):
                    return plan
            except GcloudError as error:
                if error.kind is not Kind.DISABLED:
                    raise
        raise UserError(f"no launch {name} in {zone} of {project}; `list` shows all")

    def _ready(self, plan: Plan) -> Resources:
        resources = cloud_of(plan).describe(self._laptop)
        if resources.state is not State.READY:
            raise UserError(f"{plan.name} is {resources.state.value}; `status` tells more")
        return resources

    def _answered(self, plan: Plan, workers: Workers, resources: Resources, wanted: str) -> int:
        """Tells how all workers are after a command; 1 if one is not as it should be."""
        errors, replies = workers.errors, workers.poll(resources, {})
        for reply in replies:
            self._screen.tell(f"worker {reply.rank}", reply.state)
        well = ("starting", wanted) if wanted == "running" else (wanted,)
        good = [reply for reply in replies if reply.state in well]
        if len(good) < plan.workers and errors:
            self._screen.tell("error", errors[-2000:])
        return 0 if len(good) == plan.workers else 1

    def _rehearse(self, plan: Plan) -> int:
        """Prints the commands of a run in which nothing goes wrong."""
        cloud = cloud_of(plan)
        send = ["gcloud", "storage", "cp", "code.tar.gz", code_place(plan.workdir), "--quiet"]
        self._remark(cost_in_words(plan))
        self._print([send, *cloud.create(Path("plan.json"))])
        begin = begin_script(plan)
        self._remark(f"plan.json: {plan.metadata(cloud.delete(), begin)}")
        self._remark("each machine sets itself up and starts; then, every 10 seconds:")
        self._print(self._over_ssh(plan, poll_command({})))
        self._remark("at the end:")
        return self._print(cloud.delete())

    def _remark(self, text: str) -> None:
        if not self._given.json:
            print(f"# {text}")

    def _over_ssh(self, plan: Plan, command: str) -> list[Argv]:
        """The lines that run a command on each worker; machines that are not there have no name."""
        cloud, names = cloud_of(plan), tuple(f"{plan.name}-{n}" for n in range(plan.workers))
        rehearsal = self._given.dry_run and self._given.verb == "run"
        found = Resources(State.READY, "", names) if rehearsal else cloud.describe(self._laptop)
        return cloud.ssh(command, found)

    def _print(self, commands: list[Argv]) -> int:
        for argv in commands:
            if self._given.json:
                self._screen.value(argv)
            else:
                print(shlex.join(argv))
        return 0

    def _project(self) -> str:
        return self._given.project or checks.configured(self._laptop, "project", "--project")

    def _zone(self) -> str:
        return self._given.zone or checks.configured(self._laptop, "compute/zone", "--zone")
