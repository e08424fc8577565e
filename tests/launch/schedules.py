"""Launches through random schedules of failures, on the twin's virtual clock.

python -m tests.launch.schedules --count=10000
"""

import argparse
import collections
import dataclasses
import multiprocessing
import random
import time

from launch import cloud_tpu, compute_engine
from launch.checks import last_attempt
from launch.commands import cloud_of
from launch.gcloud import Completed, LocalHost
from launch.lifecycle import CloudError, Launch
from launch.plan import Plan
from launch.workers import code_path
from tests.launch.twin.faults import DELAYS, Faults
from tests.launch.twin.simulation import World

WORKDIR = "gs://bucket/run"
STEPS = 200  # that a training takes, two seconds each
KINDS = {  # of launches; what they are asked for is what the failures are about
    "on demand": {"accelerator": "v6e-8", "zone": "us-east5-b"},
    "spot": {"accelerator": "v5litepod-16", "zone": "us-central1-a", "capacity": "spot"},
    "direct": {
        "accelerator": "v5litepod-8",
        "zone": "us-central1-a",
        "capacity": "spot",
        "queued": False,
    },
    "two slices": {
        "accelerator": "v4-16",
        "zone": "us-central2-b",
        "capacity": "spot",
        "slices": 2,
    },
    "Compute Engine": {"accelerator": "tpu7x-16", "zone": "us-central1-c", "capacity": "spot"},
}
LONG = 5 * 24 * 3600.0  # seconds in which every launch must have ended
MOST_CALLS = 5_000
# No training of these takes longer, waiting for each other and the lease included, unless the
# machines are forgotten.
LONGEST_LIFE = 9000.0
# What the cap may be overrun by: from the machine's start to its timer's, the training's end,
# a deletion at its slowest, and the looks in between.
OVERRUN = DELAYS["boot"][1] + DELAYS["stop"][1] + DELAYS["slow deletion"][1] + 120.0


class LaptopDied(BaseException):
    """The launcher is no more; not even a `finally` of it reaches the cloud."""


class NeverEnds(BaseException):
    """The launcher goes on and on."""


class SimulatedHost(LocalHost):
    """Runs gcloud in the twin.

    Args:
      world: the twin.
      dies_at: the number of the call at which it is gone.
      cut: from when to when it has no network, in seconds of the clock.
      only_ssh: what is cut is SSH, as some networks do; all else comes through.
    """

    def __init__(self, world, dies_at=None, cut=(0.0, 0.0), only_ssh=False):
        self._world, self._dies_at, self._cut, self._calls = world, dies_at, cut, 0
        self._only_ssh = only_ssh
        self.planned = Completed(0, '{"fits": true, "step_seconds": 0.1, "mfu": 0.25}', "")
        self.asked: list[list[str]] = []

    def run(self, argv, timeout=300.0):
        if "research.plan" in argv:  # which runs on this machine
            self.asked.append(list(argv))
            return self.planned
        return self._reach(1, ssh=False) or Completed(
            *self._world.cloud.gcloud(argv, timeout=timeout)
        )

    def run_parallel(self, commands, timeout):
        if lost := self._reach(len(commands), ssh=True):
            return [lost] * len(commands)
        return [Completed(*one) for one in self._world.cloud.at_once(commands, timeout)]

    def _reach(self, calls, ssh):
        """What so many commands leave that do not come to the cloud."""
        self._calls += calls
        if self._dies_at is not None and self._calls >= self._dies_at:
            raise LaptopDied
        if self._calls > MOST_CALLS:
            raise NeverEnds
        if self._cut[0] <= self.now() < self._cut[1] and (ssh or not self._only_ssh):
            return Completed(1, "", "ERROR: gcloud crashed (ConnectionError): Network unreachable")
        return None

    def now(self):
        return self._world.clock.now()

    def sleep(self, seconds):
        self._world.clock.sleep(seconds)


@dataclasses.dataclass
class Trial:
    """What became of one schedule."""

    seed: int
    kind: str
    ends: list[str]
    """How each launcher ended, in their order."""

    struck: list[str]
    """The faults that struck."""

    wrong: list[str]
    """What must not be."""


def trial(seed):
    """Carries a launch through a schedule of failures, and says what was wrong.

    The laptop may be killed at any command, and lose its network. After that nobody comes back;
    or somebody does, hours later, and goes on.
    """
    drawn = random.Random(seed)
    kind = drawn.choice(list(KINDS))
    world = World(Faults.drawn(seed), steps=STEPS)
    world.objects.write("bucket", code_path(WORKDIR)[len("gs://bucket/") :], b"code")
    max_hours = drawn.choice([24.0, 24.0, 24.0, 0.2])
    plan = Plan(
        name="run",
        project="twin",
        workdir=WORKDIR,
        arguments=("--config=a",),
        max_hours=max_hours,
        tries=10,
        **KINDS[kind],
    )
    dies_at = drawn.choice([None, drawn.randint(1, 60)])
    begin = world.clock.now() + drawn.uniform(0, 1800)
    cut = (begin, begin + drawn.choice([0.0, drawn.uniform(10, 7200)]))
    local_host = SimulatedHost(world, dies_at, cut, only_ssh=drawn.random() < 0.3)
    ends = [_launch(world, plan, local_host, exists=False)]
    if ends[-1] == "died" and drawn.random() < 0.5:
        world.clock.sleep(drawn.uniform(30, 4 * 3600))
        ends.append(_come_back(world, plan))
    elif ends[-1] == "died":
        world.clock.sleep(LONG)
    wrong = _wrong(world, plan, ends)
    return Trial(seed, kind, ends, world.faults.struck, wrong)


def _launch(world, plan, local_host, exists):
    """Runs a launcher; how it ended."""
    log = lambda event, text: None  # noqa: E731
    try:
        if not exists:
            plan = dataclasses.replace(plan, attempt=1 + last_attempt(plan, local_host))
        return Launch(cloud_of(plan), local_host, log, cloud_of, exists).run().kind
    except (LaptopDied, NeverEnds) as end:
        return "died" if isinstance(end, LaptopDied) else "never ends"
    except CloudError as refused:
        return f"refused: {refused.kind.name}"


def _come_back(world, plan):
    """What a person does another day: attach, or where there is nothing to attach to, run."""
    local_host = SimulatedHost(world)
    region = [f"--region={plan.zone.rpartition('-')[0]}", f"--project={plan.project}"]
    zone = [f"--zone={plan.zone}", f"--project={plan.project}"]
    world.faults.kinds, world.faults._left = (), collections.Counter()
    found = cloud_tpu.find(local_host, plan.name, zone)
    found = found or compute_engine.find(local_host, plan.name, region)
    return _launch(world, found or plan, local_host, exists=found is not None)


def _wrong(world, plan, ends):
    """What must not be after all that happened, and after the same command once more."""
    wrong, run = [], world.runs.get(WORKDIR)
    # A slice of one machine that never ran its startup script has no timer but the laptop.
    timed = not (plan.workers == 1 and "half node" in world.faults.struck)
    capped = plan.max_hours < 1
    if ends[-1] == "died":
        # Nobody came back. Nothing may cost; what is left of requests is deleted by hand.
        if world.cloud.meter.running and timed:
            wrong.append("machines live on")
        world.faults._left.clear()
        Launch(cloud_of(plan), SimulatedHost(world), lambda e, t: None, cloud_of, True).delete()
    elif not {"crash", "quota"} & set(world.faults.struck) and not capped:
        # Who attaches while all is being deleted is told to run the command again.
        well = ends[-1] == "finished" or ends == ["died", "deleted"]
        wrong += [] if well else [f"it was not to end as {ends}"]
    wrong += [f"left: {left}"] if (left := world.cloud.leaked()) else []
    if "finished" in ends and not run.finished:
        wrong.append("it said that it had finished")
    lived = max((until - since for *_, since, until in world.cloud.meter.lived), default=0.0)
    if lived > min(plan.max_hours * 3600 + OVERRUN, LONGEST_LIFE) and timed:
        wrong.append(f"machines lived {lived:.0f} s")
    if not (run and run.finished):
        world.faults._left.clear()
        again = dataclasses.replace(plan, max_hours=24.0)
        end = _launch(world, again, SimulatedHost(world), exists=False)
        run = world.runs.get(WORKDIR)
        if end != "finished" or not (run and run.finished) or world.cloud.leaked():
            return [*wrong, f"the same command again: {end}"]
    if run.resumed != sorted(run.resumed) or run.saved != STEPS:
        wrong.append(f"it lost what was saved: {run.resumed}")
    return wrong


def main():
    """Runs many, and prints how they ended."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--processes", type=int, default=2)
    given = parser.parse_args()
    began = time.monotonic()
    with multiprocessing.Pool(given.processes) as pool:
        trials = list(pool.imap_unordered(trial, range(given.count), chunksize=50))
    ends = collections.Counter(" then ".join(one.ends) for one in trials)
    for end, count in ends.most_common():
        print(f"{count:6}  {end}")
    faults = collections.Counter(fault for one in trials for fault in one.struck)
    print("faults:", ", ".join(f"{name} {count}" for name, count in faults.most_common()))
    wrong = sorted((one for one in trials if one.wrong), key=lambda one: one.seed)
    for one in wrong[:20]:
        print(f"seed {one.seed}, {one.kind}, {one.struck}: {one.wrong}")
    print(f"{given.count} schedules, {len(wrong)} wrong, {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
