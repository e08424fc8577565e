"""Machines in memory and a clock that nothing waits for: thousands of launches in a minute.

world = World(Faults.drawn(seed))
world.cloud.gcloud(["gcloud", "compute", "tpus", "tpu-vm", "list", "--zone=us-central1-a"])
world.clock.sleep(60)
"""

from __future__ import annotations

import json
import math
import re
import shlex
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import Any

from launch.worker.deadman import LONGEST_PAUSE, PERIOD, reason_to_delete
from launch.worker.supervisor import JOIN_SECONDS
from tests.launch.twin.clock import VirtualClock
from tests.launch.twin.cloud import FakeCloud
from tests.launch.twin.command import Completed, Vm
from tests.launch.twin.faults import Faults
from tests.launch.twin.storage import MemoryObjects

NOTICED_SECONDS = 3.0  # until a gang has noticed that a member is gone
LOST = "its agent was lost: killed, or its machine or network failed"
HARMLESS = ("mkdir", "rm", "true", "echo", "test", "cat", "ls", "tail", "uptime")
OFFSETS = re.compile(r"--offsets='?(\{.*?\})'?")
GONE = Completed(255, "", "Connection closed by remote host\n")
CODE = re.compile(r"set -- (gs://\S+)")
BEGIN, POLL, START, STOP = "begin.log", "agent.py poll", "agent.py start", "agent.py stop"


@dataclass
class Machine:
    """One virtual machine, from its boot until it vanishes."""

    vm: Vm
    metadata: Mapping[str, str]
    rank: int
    count: int
    born: float | None = None  # None until the startup script has run
    lease: float = 0.0
    boots: int = 0  # what was begun in an earlier boot is over
    files: set[str] = field(default_factory=set)
    ready: bool = False
    gang: Gang | None = None
    attempt: int = 0
    state: str = "idle"
    verdict: dict[str, Any] | None = None
    log: str = ""
    logged: int = 0


@dataclass
class Gang:
    """The training processes of a job, one on each machine."""

    name: str
    workdir: str
    attempt: int
    size: int
    members: dict[int, Machine] = field(default_factory=dict)
    begun_at: float = math.inf  # of the first step
    first: int = 0  # the step it resumed from
    frozen: int | None = None  # where it stands since a member is gone
    lost: int | None = None
    over: bool = False


@dataclass
class Run:
    """What became of all trainings in one workdir."""

    saved: int = 0
    finished: bool = False
    resumed: list[int] = field(default_factory=list)  # the step each training began from


class World:
    """A cloud, its machines and a bucket `gs://bucket` in virtual time.

    Args:
      faults: what goes wrong.
      steps: that a training takes.
      every: steps from checkpoint to checkpoint.
      pace: seconds of a step.
    """

    def __init__(
        self, faults: Faults | None = None, steps: int = 100, every: int = 10, pace: float = 2.0
    ):
        self.clock, self.faults = VirtualClock(), faults or Faults()
        self.steps, self.every, self.pace = steps, every, pace
        self.objects = MemoryObjects("bucket")
        self.machines = SimulatedMachines(self)
        self.cloud = FakeCloud(self.clock, self.machines, self.faults, self.objects)

    @property
    def runs(self) -> dict[str, Run]:
        """By workdir."""
        return self.machines.runs

    def later(self, delay: str, action: Callable[[], None]) -> None:
        self.clock.at(self.clock.now() + self.faults.delay(delay), action)


class SimulatedMachines:
    """Machines that know what the launcher asks of workers, and train by the clock."""

    def __init__(self, world: World):
        self._world, self._clock = world, world.clock
        self.machines: dict[Vm, Machine] = {}
        self.runs: dict[str, Run] = {}
        self._gangs: dict[tuple[str, int], Gang] = {}
        self._plans: dict[str, dict[str, Any]] = {}  # by their JSON

    # Of the cloud

    def boot(self, vm: Vm, metadata: Mapping[str, str]) -> None:
        workers = metadata["worker-network-endpoints"].count(",") + 1
        found = re.findall(r"MEGASCALE_(NUM_SLICES|SLICE_ID): '(\d+)'", metadata["tpu-env"])
        slices = {key: int(value) for key, value in found}
        rank = slices.get("SLICE_ID", 0) * workers + int(metadata["agent-worker-number"])
        count = slices.get("NUM_SLICES", 1) * workers
        self.machines[vm] = Machine(vm, metadata, rank, count)
        self._start_up(self.machines[vm])

    def reboot(self, vm: Vm) -> None:
        machine = self.machines[vm]
        self._lose(machine)
        self._start_up(machine)

    def vanish(self, vm: Vm) -> None:
        machine = self.machines.pop(vm)
        self._lose(machine)

    def run(self, vms: list[Vm], command: str) -> Generator[float, None, list[Completed]]:
        asked = [(machine, machine.boots) for machine in (self.machines[vm] for vm in vms)]
        said = [self._begin_command(machine, command) for machine, _ in asked]
        delay = {BEGIN: "install", STOP: "stop"}.get(_kind(command))
        if delay:
            yield self._world.faults.delay(delay)
        return [
            (refused or self._end_command(machine, command)) if machine.boots == boots else GONE
            for refused, (machine, boots) in zip(said, asked, strict=True)
        ]

    def copy(self, vm: Vm, source: str, target: str) -> Completed:
        self.machines[vm].files.add(target)
        return Completed(0, "", "")

    def fetch(self, vm: Vm, source: str, target: str) -> Completed:
        if source not in self.machines[vm].files:
            return Completed(1, "", f"scp: {source}: No such file or directory\n")
        return Completed(0, "", "")

    # Commands

    def _begin_command(self, machine: Machine, command: str) -> Completed | None:
        """What happens at once; what was said if that is the end of it."""
        if _kind(command) == BEGIN:
            return self._unpack(machine, command)
        if _kind(command) == STOP:
            again = "--again" in command
            self._stop(machine, "to be started again" if again else "asked to stop", again)
        return None

    def _end_command(self, machine: Machine, command: str) -> Completed:
        if _kind(command) == BEGIN:
            return self._set_up(machine, shlex.split(command[command.index("bash -c") :])[2])
        if _kind(command) == POLL:
            return self._poll(machine, command)
        if _kind(command) == START:
            words = shlex.split(command[command.index(START) :])
            return self._start(machine, dict(w[2:].split("=", 1) for w in words if "=" in w))
        if _kind(command) == STOP:
            return Completed(0, '{"state": "stopped"}\n', "")
        if command.split()[0].endswith(HARMLESS):
            return Completed(0, "", "")
        return Completed(127, "", f"bash: {command.split()[0]}: command not found\n")

    def _set_up(self, machine: Machine, script: str) -> Completed:
        """The end of `begin.sh`, whose first line names the job."""
        machine.ready, machine.lease = True, self._clock.now()
        job = shlex.split(script.partition("\n")[0])[4]
        return self._start(machine, {"job": job}) if job else Completed(0, "", "")

    def _unpack(self, machine: Machine, command: str) -> Completed | None:
        """Takes the code from the bucket; what was said where it is not there."""
        machine.ready = False
        if machine.born is None:
            return Completed(1, "", "mkdir: cannot create directory: Permission denied\n")
        machine.lease = self._clock.now()
        place = CODE.search(command)
        if place:
            bucket, _, name = place[1][5:].partition("/")
            if name not in self._world.objects.buckets.get(bucket, {}):
                return Completed(1, "", "ERROR: The following URLs matched no objects or files\n")
        return None

    def _poll(self, machine: Machine, command: str) -> Completed:
        now = self._clock.now()
        if not machine.ready:
            if machine.born is None:
                return Completed(0, '{"state": "booting"}\n', "")
            machine.lease = now
            return Completed(0, '{"state": "setup"}\n', "")
        machine.lease = now
        offsets = OFFSETS.search(command)
        offset = json.loads(offsets[1]).get(str(machine.rank), 0) if offsets else 0
        self._write_log(machine)
        plan = self._plan(machine)
        gang, born = machine.gang, machine.born or now
        running = gang is not None and now >= gang.begun_at
        reply = {
            "rank": machine.rank,
            "state": machine.state if gang is None else "running" if running else "starting",
            "attempt": machine.attempt,
            "step": self._step(gang) if gang and running else 0,
            "first_step_at": gang.begun_at if gang and running else None,
            "verdict": machine.verdict,
            "born": born,
            "deadline": born + plan["hours"] * 3600,
            "offset": len(machine.log),
        }
        return Completed(0, json.dumps(reply) + "\n" + machine.log[offset:], "")

    def _start(self, machine: Machine, flags: Mapping[str, str]) -> Completed:
        if not machine.ready:
            return Completed(2, "", "python3: can't open file 'agent.py': No such file\n")
        if machine.gang:
            said = "error: a training is already running here; stop it with `agent.py stop`\n"
            return Completed(2, "", said)
        job = json.loads(flags["job"])
        hosts = job.get("hosts")
        rank = int(flags["rank"]) if hosts else machine.rank
        self._join(machine, job, rank, len(hosts) if hosts else machine.count)
        return Completed(0, json.dumps({"rank": rank, "state": "starting"}) + "\n", "")

    # Training

    def _join(self, machine: Machine, job: dict[str, Any], rank: int, size: int) -> None:
        key = job["name"], job["attempt"]
        gang = self._gangs.get(key)
        if gang is None or gang.over or gang.lost is not None or rank in gang.members:
            gang = self._gangs[key] = Gang(job["name"], job["workdir"], job["attempt"], size)
            made = gang
            self._clock.at(self._clock.now() + JOIN_SECONDS, lambda: self._give_up(made))
        gang.members[rank] = machine
        machine.rank, machine.gang, machine.attempt = rank, gang, gang.attempt
        machine.verdict, machine.state, machine.log, machine.logged = None, "starting", "", 0
        if len(gang.members) == size:
            self._world.later("first step", lambda: self._begin(gang))

    def _give_up(self, gang: Gang) -> None:
        missing = sorted(set(range(gang.size)) - set(gang.members))
        if missing and not gang.over:
            self._end(gang, "failed", missing[0], "its agent did not connect", again=True)

    def _begin(self, gang: Gang) -> None:
        if gang.over or gang.lost is not None:
            return
        world, run = self._world, self.runs.setdefault(gang.workdir, Run())
        gang.begun_at, gang.first = self._clock.now(), run.saved
        run.resumed.append(run.saved)
        duration = (world.steps - run.saved) * world.pace
        self._clock.at(gang.begun_at + duration, lambda: self._finish(gang))
        if world.faults.happens("crash"):
            world.later("crash", lambda: self._crash(gang))

    def _finish(self, gang: Gang) -> None:
        if not gang.over and gang.lost is None:
            self._end(gang, "finished", None, "finished")

    def _crash(self, gang: Gang) -> None:
        if not gang.over and gang.lost is None:
            rank = self._world.faults.random.randrange(gang.size)
            trace = "Traceback (most recent call last):\nValueError: the loss is nan\n"
            self._end(gang, "failed", rank, "exit code 1", trace)

    def _stop(self, machine: Machine, cause: str, again: bool = False) -> None:
        if machine.gang:
            self._end(machine.gang, "stopped", machine.rank, cause, again=again)

    def _lose(self, machine: Machine) -> None:
        """Its processes are gone."""
        gang = machine.gang
        machine.boots += 1
        machine.gang, machine.state, machine.verdict = None, "idle", None
        if gang is None or gang.over:
            return
        gang.frozen = self._step(gang)
        del gang.members[machine.rank]
        if gang.lost is None:
            gang.lost = machine.rank
            rank = machine.rank
            noticed = self._clock.now() + NOTICED_SECONDS
            self._clock.at(noticed, lambda: self._end(gang, "failed", rank, LOST, again=True))

    def _end(
        self,
        gang: Gang,
        outcome: str,
        rank: int | None,
        cause: str,
        traceback: str = "",
        again: bool = False,
    ) -> None:
        if gang.over:
            return
        for member in gang.members.values():
            self._write_log(member)
        self._save(gang, outcome)
        gang.over = True
        verdict = {
            "outcome": outcome,
            "rank": rank,
            "cause": cause,
            "traceback": traceback,
            "code": {"finished": 0, "stopped": 143}.get(outcome, 1),
            "again": again,
            "time": self._clock.now(),
        }
        for member in gang.members.values():
            member.log += traceback
            member.gang, member.state, member.verdict = None, outcome, verdict
            member.lease = self._clock.now()
        if gang.members:
            job = {"workdir": gang.workdir, "attempt": gang.attempt}
            self._leave(job, "result.json", verdict)

    def _save(self, gang: Gang, outcome: str) -> None:
        """What is in the bucket now: a failure leaves the last checkpoint, a stop saves."""
        if self._clock.now() < gang.begun_at:
            return
        run, step, every = self.runs[gang.workdir], self._step(gang), self._world.every
        run.saved = step if outcome in ("stopped", "finished") else step // every * every
        run.saved = max(run.saved, gang.first)
        run.finished = run.finished or outcome == "finished"
        bucket, _, folder = gang.workdir[5:].partition("/")
        self._world.objects.write(bucket, f"{folder}/checkpoints/{run.saved}", b"")

    def _leave(self, job: Mapping[str, Any], name: str, value: dict[str, Any]) -> None:
        """Writes into the run's folder what outlives the machine; by hand there is none."""
        bucket, _, folder = job["workdir"][5:].partition("/")
        if bucket:
            place = f"{folder}/logs/attempt-{job['attempt']}/{name}"
            self._world.objects.write(bucket, place, json.dumps(value).encode())

    def _step(self, gang: Gang) -> int:
        if gang.frozen is not None:
            return gang.frozen
        if self._clock.now() < gang.begun_at:
            return 0
        done = round((self._clock.now() - gang.begun_at) / self._world.pace, 6)
        return min(self._world.steps, gang.first + int(done))

    def _write_log(self, machine: Machine) -> None:
        gang = machine.gang
        if gang and self._clock.now() >= gang.begun_at:
            every, step = self._world.every, self._step(gang)
            start = max(machine.logged, gang.first) // every + 1
            lines = range(start * every, step + 1, every)
            machine.log += "".join(f"step {one}\n" for one in lines)
            machine.logged = max(machine.logged, step)

    # The dead man's timer

    def _start_up(self, machine: Machine) -> None:
        if "polymath" not in machine.metadata:
            return  # a machine that somebody else made
        boots = machine.boots
        self._world.later("boot", lambda: self._watch(machine, boots, started=True))

    def _watch(self, machine: Machine, boots: int, started: bool = False) -> None:
        if machine.boots != boots:
            return
        now, plan = self._clock.now(), self._plan(machine)
        if started:
            if machine.born is None and plan["begin"]:
                self._begin_by_itself(machine, boots, plan["begin"])
            machine.born, machine.lease = machine.born or now, now
            self._tell(machine, plan, None)
        born, lease_seconds = machine.born or now, float(plan["lease_seconds"])
        training = machine.gang is not None and not machine.gang.over
        lease = now if training else machine.lease
        reason = reason_to_delete(now, born, float(plan["hours"]), lease, lease_seconds)
        if reason:
            self._stop(machine, f"the dead man's timer: {reason}")
            self._tell(machine, plan, reason)
            self._world.later("stop", lambda: self._delete(machine, boots, 1.0))
            return
        # It would look every two seconds, and find nothing until then.
        until = min(born + float(plan["hours"]) * 3600, lease + lease_seconds)
        self._clock.at(max(now, until) + PERIOD, lambda: self._watch(machine, boots))

    def _tell(self, machine: Machine, plan: dict[str, Any], reason: str | None) -> None:
        born = machine.born or self._clock.now()
        deadline = born + float(plan["hours"]) * 3600
        facts = {"born": born, "deadline": deadline, "reason": reason}
        self._leave(plan, "timer.json", facts)

    def _begin_by_itself(self, machine: Machine, boots: int, script: str) -> None:
        def end() -> None:
            if machine.boots == boots:
                self._set_up(machine, script)

        self._unpack(machine, script)
        self._world.later("install", end)

    def _delete(self, machine: Machine, boots: int, pause: float) -> None:
        if machine.boots != boots:
            return
        for argv in self._plan(machine)["delete"]:
            self._world.cloud.gcloud(argv, machine=True, wait=False)
        longer = min(2 * pause, LONGEST_PAUSE)
        self._clock.at(self._clock.now() + pause, lambda: self._delete(machine, boots, longer))

    def _plan(self, machine: Machine) -> dict[str, Any]:
        text = machine.metadata["polymath"]
        if text not in self._plans:
            self._plans[text] = json.loads(text)
        return self._plans[text]


def _kind(command: str) -> str:
    """What a command asks of a worker; "": something else."""
    return next((word for word in (POLL, BEGIN, START, STOP) if word in command), "")
