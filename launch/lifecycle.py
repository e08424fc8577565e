"""From a plan to a finished run and nothing left, whatever happens in between.

The loop looks at what is there and does the next thing, and it remembers little. So it does not
matter when a command is lost, a machine is taken away, or the laptop is closed and another one
goes on: what counts is what the cloud and the workers say.
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
from launch.gcloud import GcloudError, Kind, Laptop, call, kind_of
from launch.phases import Phases, Tell
from launch.plan import Plan
from launch.workers import Reply, Workers, begin_script, left_place

EVERY = 10.0  # seconds between looks
UNBORN_SECONDS = 600.0  # from READY until the startup script must have begun
UNREACHABLE_SECONDS = 300.0  # some worker has not answered for so long: its machine is gone
UNSEEN_SECONDS = 120.0  # from a request until the cloud must show it
REPAIR_SECONDS = 1800.0  # of a machine that the cloud replaces by itself
CREATE_SECONDS = 1800.0  # of what gcloud waits for
DELETE_SECONDS = 1800.0
OVERDUE_SECONDS = 60.0  # after the cap, for the machines' own timer to be first
SETUP_SECONDS = 3600.0  # packages and data
REPAIRS = 3  # in a row, of workers that are there and do not run
DRAINS = 100  # looks at the logs after the end, each of a MiB and worker at most
FINAL = (Kind.LOGIN, Kind.DENIED, Kind.DISABLED)  # whatever is asked
TIMER = "the dead man's timer"  # with which a verdict begins that it brought about
UNFULFILLABLE = (*FINAL, Kind.QUOTA, Kind.USAGE)  # of a request that has failed


@dataclass(frozen=True)
class Outcome:
    """How a launch ended. All that it made is deleted then."""

    kind: str
    """finished, failed, stopped; capped: time or money was spent; lost: machines could not be had
    or kept; idle: there is nothing to run; deleted: by somebody else."""

    text: str
    verdict: dict[str, Any] | None = None
    hours: float = 0.0
    """That machines have lived, over all attempts."""


class Refused(Exception):
    """The cloud refuses for a reason that time does not heal."""

    def __init__(self, error: GcloudError):
        super().__init__(f"{error.kind.value}: {error.says}")
        self.kind, self.says = error.kind, error.says


class Launch:
    """Carries a plan through.

    Args:
      cloud: a plan, and the command lines for it.
      laptop: runs them.
      tell: is told of every event.
      make: builds the cloud of a changed plan, for another attempt.
      exists: whether machines were created already; `attach` goes on with them.
    """

    def __init__(
        self, cloud: Cloud, laptop: Laptop, tell: Tell, make: Callable[[Plan], Cloud], exists: bool
    ):
        self._laptop, self._tell, self._make = laptop, tell, make
        self._exists = exists
        self.trains = False
        """Whether a training was seen to run."""

        self._begin(cloud)

    def _begin(self, cloud: Cloud) -> None:
        """Everything that is remembered of one attempt."""
        self._cloud, self._workers = cloud, Workers(cloud, self._laptop)
        self._asked_at: float | None = None  # when the machines were asked for
        self._reason = ""  # why this attempt is being given up
        self._phases, self._said = Phases(self._laptop, self._tell), ""
        self._repairs = 0
        self._answered: dict[int, float] = {}  # when each worker did last, as `_phases` counts
        self._born = 0.0
        self._offsets: dict[int, int] = {}
        self._step = 0

    @property
    def plan(self) -> Plan:
        """As of the present attempt."""
        return self._cloud.plan

    def run(self, until_ready: bool = False) -> Outcome:
        """Goes on until the run has ended and everything is deleted.

        Args:
          until_ready: return as soon as the machines are ready, and leave them.

        Raises:
          Refused: the cloud did, for good. Everything that was made is deleted, where that is not
            what it refused; the machines' own timer does it then.
        """
        while True:
            self._phases.look()
            try:
                resources = self._cloud.describe(self._laptop)
                if until_ready and resources.state is State.READY:
                    return Outcome("idle", "ready")
                outcome = self._advance(resources)
            except GcloudError as error:
                self._bear(error)
                outcome = None
            if outcome:
                # Machines to work on by hand are deleted by hand, or by their timer.
                if until_ready or self.plan.arguments:
                    self.delete()
                return outcome
            # A look is a process for each worker, and must not be all that the laptop does.
            self._laptop.sleep(max(EVERY, 0.5 * self.plan.workers))

    def delete(self) -> None:
        """Deletes everything, and waits until nothing is there.

        Raises:
          Refused: the cloud did, or it did not happen in time; something may be left.
        """
        until = self._laptop.now() + DELETE_SECONDS
        shown = (self._asked_at or 0.0) + UNSEEN_SECONDS  # by when what was asked for is seen
        while True:
            try:
                state = self._cloud.describe(self._laptop).state
                if state is State.ABSENT and (self._exists or self._laptop.now() > shown):
                    return
                if state is not State.DELETING:
                    self._order_deletion()
            except GcloudError as error:
                late = error.kind is not Kind.TRANSIENT and self._laptop.now() > until
                if error.kind in FINAL or late:
                    raise Refused(error) from None
                self._phases.enter("deleting", str(error))
            self._laptop.sleep(EVERY)

    def _advance(self, resources: Resources) -> Outcome | None:
        """Does the next thing. Returns the outcome where there is nothing left to do."""
        if self._reason and resources.state is not State.ABSENT:
            self._phases.enter("deleting", resources.detail)
            if resources.state is not State.DELETING:
                self._order_deletion()
            return None
        if resources.state is State.ABSENT:
            return self._absent()
        if resources.state is State.REMAINS:
            self._order_deletion()
            return None
        self._exists = True
        if resources.state is State.READY:
            outcome = self._ready(resources)
            if outcome or not self._overdue():
                return outcome
        if self._overdue():
            return self._outcome("capped", "the cap is reached, and the machines' timer was not")
        if resources.state is State.FAILED and kind_of(resources.detail) in UNFULFILLABLE:
            return self._outcome("lost", resources.detail)
        if resources.state is State.LOST or resources.state is State.FAILED:
            return self._give_up(resources.detail)
        if resources.state is State.DELETING:
            self._phases.enter("deleting", resources.detail)
            return None
        self._phases.enter(resources.state.value, resources.detail)
        if self._born and self._phases.lasts(REPAIR_SECONDS):
            return self._give_up(f"not repaired: {resources.detail}")
        return self._waited()

    def _waited(self) -> Outcome | None:
        """The outcome where it was waited for machines too long."""
        if self._born or self._laptop.now() - self._phases.began <= self.plan.max_wait_hours * 3600:
            return None
        return self._outcome("lost", f"no capacity within {self.plan.max_wait_hours:g} hours")

    def _absent(self) -> Outcome | None:
        if self._reason:
            return self._next_attempt()
        if self._exists:
            return self._vanished()
        if self._asked_at is None:
            return self._waited() or self._create()
        if self._laptop.now() - self._asked_at > UNSEEN_SECONDS:
            # It came and went while nobody looked; or what was asked for was lost on its way.
            came = self._left("timer.json")
            return self._vanished() if came else self._give_up("what was asked for is not there")
        return None

    def _create(self) -> Outcome | None:
        plan = self.plan
        self._phases.enter("creating", f"{plan.slices} x {plan.accelerator} in {plan.zone}")
        self._asked_at = self._laptop.now()
        with TemporaryDirectory() as folder:
            metadata = Path(folder) / "plan.json"
            begin = begin_script(plan) if plan.arguments else ""
            metadata.write_text(plan.metadata(self._cloud.delete(), begin))
            try:
                for argv in self._cloud.create(metadata):
                    call(self._laptop, argv, CREATE_SECONDS)
            except GcloudError as error:
                if error.kind is Kind.CAPACITY:
                    return self._give_up(error.says)
                if error.kind not in (Kind.TRANSIENT, Kind.TAKEN):  # it may have been carried out
                    self.delete()
                    raise Refused(error) from None
                self._tell("retry", error.says)
        return None

    def _bear(self, error: GcloudError) -> None:
        """Waits out an error that passes. The machines go on, and have a timer of their own."""
        if error.kind in FINAL:
            raise Refused(error) from None
        if error.says != self._said:
            self._said = error.says
            self._tell("retry", str(error))

    def _ready(self, resources: Resources) -> Outcome | None:
        self._born = self._born or self._laptop.now()
        replies = self._workers.poll(resources, self._offsets)
        self._hear(replies)
        for worker in set(range(self.plan.workers)) - self._workers.silent:
            self._answered[worker] = self._phases.now
        states = {reply.state for reply in replies}
        verdict = next((reply.verdict for reply in replies if reply.verdict), None)
        if verdict and not verdict["again"]:
            self._drain(resources)
            return self._judged(verdict)
        if len(replies) < self.plan.workers:
            return self._incomplete(replies)
        if "unborn" in states:
            self._phases.enter("booting", "")
            return self._unborn() if self._phases.lasts(UNBORN_SECONDS) else None
        if states <= {"running", "starting"}:
            self._phases.enter("running" if states == {"running"} else "starting", "")
            self._repairs = 0 if self._phases.phase == "running" else self._repairs
            return None
        if not self.plan.arguments:
            return self._outcome("idle", "the machines are ready, and there is nothing to run")
        if "bare" in states and not (
            self._phases.phase == "setup" and self._phases.lasts(SETUP_SECONDS)
        ):
            self._phases.enter("setup", f"{self.plan.workers} workers")
            return None
        return self._repair(resources, replies)

    def _incomplete(self, replies: list[Reply]) -> Outcome | None:
        """What it means that not all workers answered: it may be the network, or a machine."""
        if any(reply.state == "running" for reply in replies):
            return None  # its agent would have noticed that one is lost
        self._phases.enter("unreachable", self._workers.errors.rpartition("\n")[2])
        asked_since = [
            self._answered.get(worker, self._phases.since) for worker in self._workers.silent
        ]
        silent = self._phases.now - min(asked_since, default=self._phases.now) > UNREACHABLE_SECONDS
        # Where nobody answers and yet their timers live, SSH is what fails, and they do without us.
        if silent and (replies or not self._left("timer.json")):
            return self._give_up("a worker does not answer")
        return None

    def _judged(self, verdict: dict[str, Any]) -> Outcome:
        """The workers' verdict as the launch's outcome."""
        kind = "capped" if verdict["cause"].startswith(TIMER) else verdict["outcome"]
        return self._outcome(kind, verdict["cause"], verdict)

    def _drain(self, resources: Resources) -> None:
        """Reads what is left of the logs."""
        for _ in range(DRAINS):
            replies = self._workers.poll(resources, self._offsets)
            self._hear(replies)
            if not any(reply.log for reply in replies):
                return

    def _repair(self, resources: Resources, replies: list[Reply]) -> Outcome | None:
        """Starts all workers again, also those that run: a gang begins together."""
        self._repairs += 1
        said = "\n".join(reply.log for reply in replies if reply.state == "broken")
        trouble = (said or self._workers.errors).strip()[-2000:]
        if self._repairs > REPAIRS:
            return self._outcome("failed", f"the workers cannot be set up: {trouble}")
        self._phases.enter("repair", f"number {self._repairs}")
        self._workers.stop(resources, again=True)
        if any(reply.state in ("bare", "broken") for reply in replies):
            self._workers.begin(resources)
        else:
            self._workers.start(resources)
        return None

    def _unborn(self) -> Outcome:
        return self._outcome(
            "failed", "the startup script has not begun; look at the image and its network"
        )

    def _hear(self, replies: list[Reply]) -> None:
        """Passes new lines of the logs on, and takes note of how far the workers are."""
        for reply in replies:
            for line in reply.log.splitlines():
                self._tell(f"log {reply.rank}", line)
            if reply.rank >= 0:
                self._offsets[reply.rank] = reply.offset
        self.trains |= any(reply.state in ("starting", "running") for reply in replies)
        born = [reply.born for reply in replies if reply.born]
        self._born = min([*born, self._born or self._laptop.now()]) if replies else self._born
        if step := max((reply.step for reply in replies), default=0):
            if not self._step:
                self._tell("first step", f"attempt {self.plan.attempt}")
            self._step = step

    def _give_up(self, reason: str) -> Outcome | None:
        """Gives this attempt up: once all of it is deleted the next one begins."""
        if self.plan.tries <= 1:
            return self._outcome("lost", f"{reason}; that was the last try")
        self._reason = reason
        self._tell("lost", f"{reason}; {self.plan.tries - 1} more tries")
        self._order_deletion()
        return None

    def _next_attempt(self) -> Outcome | None:
        if not self._born and (timer := self._left("timer.json")):
            self._born = timer["born"]  # of machines that were there while nobody looked
        plan = self.plan.again(self._lived())
        if plan.hours <= 0:
            return self._outcome("capped", "the cap is reached")
        self._begin(self._make(plan))
        self._exists = False
        return None

    def _vanished(self) -> Outcome | None:
        """The machines are gone, and not by us: by the timer, or by somebody's `delete`."""
        seen = self._asked_at is None or self._laptop.now() - self._asked_at > UNSEEN_SECONDS
        if not (seen or self._born):
            return None
        if verdict := self._left("result.json"):
            again = verdict["again"]
            return self._give_up(verdict["cause"]) if again else self._judged(verdict)
        timer = self._left("timer.json") or {}
        self._born = self._born or timer.get("born", 0.0)
        if self._laptop.now() >= timer.get("deadline", math.inf):
            return self._outcome("capped", f"{TIMER}: {timer['reason']}", until=timer["deadline"])
        if timer.get("reason"):  # so nobody renewed the lease
            return self._give_up(f"{TIMER}: {timer['reason']}")
        return self._outcome("deleted", "by somebody; the same command resumes")

    def _left(self, name: str) -> Any:
        """What the workers or the timer left in the run's folder; None: nothing."""
        argv = ["gcloud", "storage", "cat", left_place(self.plan, name), "--quiet"]
        try:
            return json.loads(call(self._laptop, argv, tries=3))
        except GcloudError as error:
            if error.kind is not Kind.ABSENT:
                raise
            return None

    def _order_deletion(self) -> None:
        for argv in self._cloud.delete():
            try:
                call(self._laptop, argv)
            except GcloudError as error:
                # What is being deleted already refuses; the next look tells.
                if error.kind not in (Kind.ABSENT, Kind.USAGE):
                    raise

    def _overdue(self) -> bool:
        return self._lived() > self.plan.hours + OVERDUE_SECONDS / 3600

    def _lived(self, until: float | None = None) -> float:
        """Hours of this attempt's machines until then; by default until now."""
        until = until or self._laptop.now()
        return max(0.0, until - self._born) / 3600 if self._born else 0.0

    def _outcome(
        self,
        kind: str,
        text: str,
        verdict: dict[str, Any] | None = None,
        until: float | None = None,
    ) -> Outcome:
        """An outcome, with the hours until then; by default until its verdict, or until now."""
        lived = self._lived(until or (verdict or {}).get("time"))
        return Outcome(kind, text, verdict, self.plan.spent_hours + lived)
