"""The lifecycle of a launch: create, train, recreate after preemption, delete.

Each iteration of the loop reads the state of the cloud and of the workers and takes the next
action. It keeps little state of its own, so that lost commands, preempted VMs, and a launcher that
stops and continues on another machine need no special case.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from launch.cloud import Cloud, Resources, State
from launch.gcloud import GcloudError, Kind, LocalHost, call, classify_error
from launch.phases import LogEvent, Phases
from launch.plan import Plan
from launch.workers import Reply, Workers, attempt_path, begin_script

POLL_SECONDS = 10.0  # seconds between polls
BOOT_SECONDS = 600.0  # from READY until the startup script must have started
UNREACHABLE_SECONDS = 300.0  # without a reply until a worker counts as lost
VISIBLE_SECONDS = 120.0  # from a request until the cloud must list it
REPAIR_SECONDS = 1800.0  # for the cloud to replace a VM
CREATE_SECONDS = 1800.0  # for a synchronous create command
DELETE_SECONDS = 1800.0
OVERDUE_SECONDS = 60.0  # after the limit, so that the VMs' own timer acts first
SETUP_SECONDS = 3600.0  # packages and data
MAX_REPAIRS = 3  # in succession, of workers that reply but do not train
MAX_DRAIN_POLLS = 100  # polls for the rest of the logs, at most 1 MiB per worker each
PERMANENT = (Kind.LOGIN, Kind.DENIED, Kind.DISABLED)  # errors that retries cannot fix
TIMER = "the dead man's timer"  # the beginning of a verdict that it caused
UNFULFILLABLE = (
    *PERMANENT,
    Kind.QUOTA,
    Kind.USAGE,
)  # of a failed queued resource


@dataclass(frozen=True)
class Outcome:
    """The result of a launch, after all its resources were deleted."""

    kind: str
    """finished, failed, stopped; capped: the limit of time or cost was reached; lost: no VMs were
    available or they were preempted; idle: nothing to run; deleted: another user deleted the VMs.
    """

    text: str
    verdict: dict[str, Any] | None = None
    hours: float = 0.0
    """The lifetime of the VMs, summed over all attempts."""


class CloudError(Exception):
    """An error of the cloud that retries cannot fix."""

    def __init__(self, error: GcloudError):
        super().__init__(f"{error.kind.value}: {error.message}")
        self.kind, self.message = error.kind, error.message


class Launch:
    """Runs a plan from creation to deletion.

    Args:
      cloud: the commands for the plan.
      local_host: runs the commands.
      log: receives every event.
      make: returns the cloud of a changed plan, for the next attempt.
      exists: whether the VMs exist already, as for `attach`.
    """

    def __init__(
        self,
        cloud: Cloud,
        local_host: LocalHost,
        log: LogEvent,
        make: Callable[[Plan], Cloud],
        exists: bool,
    ):
        self._local_host, self._log, self._make = local_host, log, make
        self._exists = exists
        self.is_training = False
        """Whether the training has run."""

        self._reset(cloud)

    def _reset(self, cloud: Cloud) -> None:
        """Resets the state of an attempt."""
        self._cloud, self._workers = cloud, Workers(cloud, self._local_host)
        self._requested_at: float | None = None  # Unix time of the request for VMs
        self._reason = ""  # why this attempt is being deleted
        self._phases, self._last_error = Phases(self._local_host, self._log), ""
        self._num_repairs = 0
        self._last_reply: dict[int, float] = {}  # by worker, in seconds of `_phases`
        self._boot_time = 0.0
        self._offsets: dict[int, int] = {}
        self._step = 0

    @property
    def plan(self) -> Plan:
        """The plan of the current attempt."""
        return self._cloud.plan

    def run(self, until_ready: bool = False) -> Outcome:
        """Runs until the training has ended and all resources are deleted.

        Args:
          until_ready: return as soon as the VMs are ready, and keep them.

        Raises:
          CloudError: retries cannot fix an error of the cloud. If the deletion failed, the VMs'
            own timer deletes them.
        """
        while True:
            self._phases.update()
            try:
                resources = self._cloud.describe(self._local_host)
                if until_ready and resources.state is State.READY:
                    return Outcome("idle", "ready")
                outcome = self._advance(resources)
            except GcloudError as error:
                self._handle_error(error)
                outcome = None
            if outcome:
                # The user, or the timer, deletes VMs for interactive use.
                if until_ready or self.plan.arguments:
                    self.delete()
                return outcome
            # A poll starts a process per worker, which must not occupy the local host.
            self._local_host.sleep(max(POLL_SECONDS, 0.5 * self.plan.workers))

    def delete(self) -> None:
        """Deletes all resources, and waits until none exists.

        Raises:
          CloudError: the deletion failed or timed out; resources may remain.
        """
        until = self._local_host.now() + DELETE_SECONDS
        shown = (self._requested_at or 0.0) + VISIBLE_SECONDS  # by then the cloud lists the request
        while True:
            try:
                state = self._cloud.describe(self._local_host).state
                if state is State.ABSENT and (self._exists or self._local_host.now() > shown):
                    return
                if state is not State.DELETING:
                    self._order_deletion()
            except GcloudError as error:
                late = error.kind is not Kind.TRANSIENT and self._local_host.now() > until
                if error.kind in PERMANENT or late:
                    raise CloudError(error) from None
                self._phases.enter("deleting", str(error))
            self._local_host.sleep(POLL_SECONDS)

    def _advance(self, resources: Resources) -> Outcome | None:
        """Takes the next action; returns the outcome if the launch has ended."""
        if self._reason and resources.state is not State.ABSENT:
            self._phases.enter("deleting", resources.detail)
            if resources.state is not State.DELETING:
                self._order_deletion()
            return None
        if resources.state is State.ABSENT:
            return self._handle_absent()
        if resources.state is State.REMAINS:
            self._order_deletion()
            return None
        self._exists = True
        if resources.state is State.READY:
            outcome = self._handle_ready(resources)
            if outcome or not self._overdue():
                return outcome
        if self._overdue():
            return self._outcome("capped", "the limit is reached, and the VMs' timer did not act")
        if resources.state is State.FAILED and classify_error(resources.detail) in UNFULFILLABLE:
            return self._outcome("lost", resources.detail)
        if resources.state is State.LOST or resources.state is State.FAILED:
            return self._give_up(resources.detail)
        if resources.state is State.DELETING:
            self._phases.enter("deleting", resources.detail)
            return None
        self._phases.enter(resources.state.value, resources.detail)
        if self._boot_time and self._phases.longer_than(REPAIR_SECONDS):
            return self._give_up(f"not repaired: {resources.detail}")
        return self._check_wait()

    def _check_wait(self) -> Outcome | None:
        """Returns the outcome if the wait for capacity exceeded its limit."""
        if (
            self._boot_time
            or self._local_host.now() - self._phases.began <= self.plan.max_wait_hours * 3600
        ):
            return None
        return self._outcome("lost", f"no capacity within {self.plan.max_wait_hours:g} hours")

    def _handle_absent(self) -> Outcome | None:
        if self._reason:
            return self._next_attempt()
        if self._exists:
            return self._disappeared()
        if self._requested_at is None:
            return self._check_wait() or self._create()
        if self._local_host.now() - self._requested_at > VISIBLE_SECONDS:
            # It was created and deleted while the local host was asleep, or the request was lost.
            came = self._read_file("timer.json")
            return (
                self._disappeared()
                if came
                else self._give_up("the requested resources do not exist")
            )
        return None

    def _create(self) -> Outcome | None:
        plan = self.plan
        self._phases.enter("creating", f"{plan.slices} x {plan.accelerator} in {plan.zone}")
        self._requested_at = self._local_host.now()
        with TemporaryDirectory() as folder:
            metadata = Path(folder) / "plan.json"
            begin = begin_script(plan) if plan.arguments else ""
            metadata.write_text(plan.metadata(self._cloud.delete(), begin))
            try:
                for argv in self._cloud.create(metadata):
                    call(self._local_host, argv, CREATE_SECONDS)
            except GcloudError as error:
                if error.kind is Kind.CAPACITY:
                    return self._give_up(error.message)
                if error.kind not in (Kind.TRANSIENT, Kind.TAKEN):  # the command may have succeeded
                    self.delete()
                    raise CloudError(error) from None
                self._log("retry", error.message)
        return None

    def _handle_error(self, error: GcloudError) -> None:
        """Logs a transient error; raises a permanent one."""
        if error.kind in PERMANENT:
            raise CloudError(error) from None
        if error.message != self._last_error:
            self._last_error = error.message
            self._log("retry", str(error))

    def _handle_ready(self, resources: Resources) -> Outcome | None:
        self._boot_time = self._boot_time or self._local_host.now()
        replies = self._workers.poll(resources, self._offsets)
        self._process_replies(replies)
        for worker in set(range(self.plan.workers)) - self._workers.silent:
            self._last_reply[worker] = self._phases.now
        states = {reply.state for reply in replies}
        verdict = next((reply.verdict for reply in replies if reply.verdict), None)
        if verdict and not verdict["again"]:
            self._drain(resources)
            return self._outcome_of(verdict)
        if len(replies) < self.plan.workers:
            return self._handle_missing(replies)
        if "booting" in states:
            self._phases.enter("booting", "")
            return self._boot_failed() if self._phases.longer_than(BOOT_SECONDS) else None
        if states <= {"running", "starting"}:
            self._phases.enter("running" if states == {"running"} else "starting", "")
            self._num_repairs = 0 if self._phases.phase == "running" else self._num_repairs
            return None
        if not self.plan.arguments:
            return self._outcome("idle", "the VMs are ready, and there is nothing to run")
        if "setup" in states and not (
            self._phases.phase == "setup" and self._phases.longer_than(SETUP_SECONDS)
        ):
            self._phases.enter("setup", f"{self.plan.workers} workers")
            return None
        return self._repair(resources, replies)

    def _handle_missing(self, replies: list[Reply]) -> Outcome | None:
        """Handles missing replies, of lost workers or of a failed network."""
        if any(reply.state == "running" for reply in replies):
            return None  # its agent would have detected a lost worker
        self._phases.enter("unreachable", self._workers.errors.rpartition("\n")[2])
        asked_since = [
            self._last_reply.get(worker, self._phases.since) for worker in self._workers.silent
        ]
        silent = self._phases.now - min(asked_since, default=self._phases.now) > UNREACHABLE_SECONDS
        # If no worker replies but their timers run, only SSH fails: the training continues.
        if silent and (replies or not self._read_file("timer.json")):
            return self._give_up("a worker does not reply")
        return None

    def _outcome_of(self, verdict: dict[str, Any]) -> Outcome:
        """Converts the workers' verdict to the outcome of the launch."""
        kind = "capped" if verdict["cause"].startswith(TIMER) else verdict["outcome"]
        return self._outcome(kind, verdict["cause"], verdict)

    def _drain(self, resources: Resources) -> None:
        """Reads the rest of the logs."""
        for _ in range(MAX_DRAIN_POLLS):
            replies = self._workers.poll(resources, self._offsets)
            self._process_replies(replies)
            if not any(reply.log for reply in replies):
                return

    def _repair(self, resources: Resources, replies: list[Reply]) -> Outcome | None:
        """Restarts all workers, including those that run, since a gang starts together."""
        self._num_repairs += 1
        output = "\n".join(reply.log for reply in replies if reply.state == "broken")
        trouble = (output or self._workers.errors).strip()[-2000:]
        if self._num_repairs > MAX_REPAIRS:
            return self._outcome("failed", f"the setup of the workers failed: {trouble}")
        self._phases.enter("repair", f"number {self._num_repairs}")
        self._workers.stop(resources, again=True)
        if any(reply.state in ("setup", "broken") for reply in replies):
            self._workers.begin(resources)
        else:
            self._workers.start(resources)
        return None

    def _boot_failed(self) -> Outcome:
        return self._outcome(
            "failed", "the startup script has not started; check the image and its network"
        )

    def _process_replies(self, replies: list[Reply]) -> None:
        """Logs new lines, and records steps and boot times."""
        for reply in replies:
            for line in reply.log.splitlines():
                self._log(f"log {reply.rank}", line)
            if reply.rank >= 0:
                self._offsets[reply.rank] = reply.offset
        self.is_training |= any(reply.state in ("starting", "running") for reply in replies)
        born = [reply.born for reply in replies if reply.born]
        self._boot_time = (
            min([*born, self._boot_time or self._local_host.now()]) if replies else self._boot_time
        )
        if step := max((reply.step for reply in replies), default=0):
            if not self._step:
                self._log("first step", f"attempt {self.plan.attempt}")
            self._step = step

    def _give_up(self, reason: str) -> Outcome | None:
        """Deletes this attempt; the next one starts once all its resources are deleted."""
        if self.plan.tries <= 1:
            return self._outcome("lost", f"{reason}; no tries remain")
        self._reason = reason
        self._log("lost", f"{reason}; {self.plan.tries - 1} more tries")
        self._order_deletion()
        return None

    def _next_attempt(self) -> Outcome | None:
        if not self._boot_time and (timer := self._read_file("timer.json")):
            self._boot_time = timer["born"]  # of VMs that existed while the local host was asleep
        plan = self.plan.next_attempt(self._hours_alive())
        if plan.hours <= 0:
            return self._outcome("capped", "the limit is reached")
        self._reset(self._make(plan))
        self._exists = False
        return None

    def _disappeared(self) -> Outcome | None:
        """Handles VMs that the timer or another user deleted."""
        seen = (
            self._requested_at is None
            or self._local_host.now() - self._requested_at > VISIBLE_SECONDS
        )
        if not (seen or self._boot_time):
            return None
        if verdict := self._read_file("result.json"):
            again = verdict["again"]
            return self._give_up(verdict["cause"]) if again else self._outcome_of(verdict)
        timer = self._read_file("timer.json") or {}
        self._boot_time = self._boot_time or timer.get("born", 0.0)
        if self._local_host.now() >= timer.get("deadline", math.inf):
            return self._outcome("capped", f"{TIMER}: {timer['reason']}", until=timer["deadline"])
        if timer.get("reason"):  # the lease expired
            return self._give_up(f"{TIMER}: {timer['reason']}")
        return self._outcome("deleted", "another user deleted the VMs; the same command resumes")

    def _read_file(self, name: str) -> Any:
        """Returns a JSON file of this attempt in the workdir; None if it does not exist."""
        argv = ["gcloud", "storage", "cat", attempt_path(self.plan, name), "--quiet"]
        try:
            return json.loads(call(self._local_host, argv, tries=3))
        except GcloudError as error:
            if error.kind is not Kind.ABSENT:
                raise
            return None

    def _order_deletion(self) -> None:
        for argv in self._cloud.delete():
            try:
                call(self._local_host, argv)
            except GcloudError as error:
                # Resources that are being deleted return an error; the next poll decides.
                if error.kind not in (Kind.ABSENT, Kind.USAGE):
                    raise

    def _overdue(self) -> bool:
        return self._hours_alive() > self.plan.hours + OVERDUE_SECONDS / 3600

    def _hours_alive(self, until: float | None = None) -> float:
        """Returns the lifetime of this attempt's VMs in hours, by default until now."""
        until = until or self._local_host.now()
        return max(0.0, until - self._boot_time) / 3600 if self._boot_time else 0.0

    def _outcome(
        self,
        kind: str,
        text: str,
        verdict: dict[str, Any] | None = None,
        until: float | None = None,
    ) -> Outcome:
        """Returns an outcome, with hours until `until`, the verdict's time, or now."""
        lived = self._hours_alive(until or (verdict or {}).get("time"))
        return Outcome(kind, text, verdict, self.plan.spent_hours + lived)
