"""A Google Cloud that answers gcloud's command lines: TPU nodes, queued resources, Compute Engine,
storage. Texts and exit codes are those of gcloud 528, as its source and the API's reference say.
"""

import heapq
import itertools
import math
import re
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from typing import Any, Protocol

from tests.launch.twin import compute_api, ssh, storage, tpu_api
from tests.launch.twin.clock import Clock
from tests.launch.twin.command import (
    HERE,
    PROJECT,
    Call,
    Completed,
    Disk,
    Handler,
    Refusal,
    Steps,
    Vm,
    parse,
    printed,
)
from tests.launch.twin.faults import Faults

ACCOUNT = "tester@example.com"
POLL = 2.0  # seconds between gcloud's looks at an operation
NOT_LOGGED_IN = (
    "You do not currently have an active account selected.\nPlease run:\n\n"
    "  $ gcloud auth login\n\nto obtain new credentials.\n\n"
    "If you have already logged in with a different account, run:\n\n"
    "  $ gcloud config set account ACCOUNT\n\n"
    "to select an already authenticated account to use."
)


class Machines(Protocol):
    """The machines behind the cloud."""

    def boot(self, vm: Vm, metadata: Mapping[str, str]) -> None:
        """Starts a new, empty machine, and its startup script. `metadata`: all attributes, and
        `instance/name`."""

    def reboot(self, vm: Vm) -> None:
        """Ends all processes, keeps the disk, and starts the startup script again."""

    def vanish(self, vm: Vm) -> None:
        """Ends all processes and throws the disk away."""

    def run(self, vms: list[Vm], command: str) -> Generator[float, None, list[Completed]]:
        """Runs a shell command on several machines at once, each with what it printed. Yields the
        seconds that pass meanwhile."""

    def copy(self, vm: Vm, source: str, target: str) -> Completed:
        """Copies a file to a machine."""

    def fetch(self, vm: Vm, source: str, target: str) -> Completed:
        """Copies a file from a machine."""


class Meter:
    """The bill: chip-seconds by node."""

    def __init__(self, clock: Clock):
        self._clock = clock
        self._running: dict[str, tuple[str, int, float]] = {}
        self.lived: list[tuple[str, str, int, float, float]] = []  # node, chip, chips, from, to

    def start(self, node: str, chip: str, chips: int) -> None:
        self._running.setdefault(node, (chip, chips, self._clock.now()))

    def stop(self, node: str) -> None:
        if node in self._running:
            chip, chips, since = self._running.pop(node)
            self.lived.append((node, chip, chips, since, self._clock.now()))

    @property
    def running(self) -> list[str]:
        """The nodes that cost money now."""
        return sorted(self._running)

    def seconds(self) -> dict[str, float]:
        """Chip-seconds by kind of chip, until now."""
        now, sums = self._clock.now(), dict[str, float]()
        running = [(n, c, k, since, now) for n, (c, k, since) in self._running.items()]
        for _, chip, chips, since, until in [*self.lived, *running]:
            sums[chip] = sums.get(chip, 0.0) + chips * (until - since)
        return sums


class FakeCloud:
    """The cloud as one `gcloud` sees it.

    Args:
      clock: passes the time; in it all delays lie.
      machines: what boots, runs commands, and vanishes.
      faults: what goes wrong.
      objects: the buckets, see `storage.py`.
      addresses: of the machines, one each; by default 10.0.0.2 and on.
    """

    def __init__(
        self,
        clock: Clock,
        machines: Machines,
        faults: Faults | None = None,
        objects: Any = None,
        addresses: Iterator[str] | None = None,
    ):
        self.clock, self.machines, self.faults = clock, machines, faults or Faults()
        self.addresses = addresses or (f"10.0.{i >> 8}.{i & 255}" for i in itertools.count(2))
        self.account: str | None = ACCOUNT
        self.config = {"project": PROJECT, "compute/zone": "", "account": ACCOUNT}
        self.quota = math.inf  # chips
        self.denied: set[str] = set()  # commands for which the account has no permission
        self.disabled: set[str] = set()  # APIs that are not enabled: "tpu", "compute"
        self.disks: dict[str, str] = {}  # name to zone: what somebody left behind
        self.calls: list[list[str]] = []
        self.meter = Meter(clock)
        self.alive: set[Vm] = set()
        self.objects = storage.MemoryObjects() if objects is None else objects
        self.ssh = ssh.Ssh(self)
        self.compute = compute_api.ComputeApi(self)
        self.tpu = tpu_api.TpuApi(self)
        self._handlers: dict[str, Handler] = {
            **self.compute.handlers(),
            **self.tpu.handlers(),
            **storage.StorageApi(self).handlers(),
            **self._own_handlers(),
        }

    def gcloud(
        self,
        argv: list[str],
        timeout: float = math.inf,
        disk: Disk = HERE,
        machine: bool = False,
        wait: bool = True,
    ) -> Completed:
        """Carries out one command line, with or without `gcloud` as its first word.

        Args:
          argv: the command line.
          timeout: seconds, after which it is given up with code 124; what has begun goes on.
          disk: the caller's files, and its standard input.
          machine: the caller is a machine of this cloud, which needs no login.
          wait: False: no time passes, as an event of a virtual clock needs it.
        """
        steps = self._carry_out(argv, disk, machine)
        until = self.clock.now() + timeout
        while True:
            try:
                seconds = next(steps)
            except StopIteration as done:
                return done.value
            if wait and self.clock.now() + seconds > until:
                self.clock.sleep(until - self.clock.now())
                return given_up(timeout)
            if wait:
                self.clock.sleep(seconds)
            elif seconds is POLL:
                return Completed(0, "", "")  # the operation goes on

    def at_once(self, commands: Sequence[list[str]], timeout: float = math.inf) -> list[Completed]:
        """Carries out several command lines side by side; what each left, in their order."""
        done = [given_up(timeout)] * len(commands)
        now, order = self.clock.now(), itertools.count()
        waiting = [
            (now, next(order), index, self._carry_out(argv, HERE, False))
            for index, argv in enumerate(commands)
        ]
        until = now + timeout
        while waiting:
            wakes, _, index, steps = heapq.heappop(waiting)
            self.clock.sleep(min(wakes, until) - self.clock.now())
            if wakes > until:
                break
            try:
                wakes += next(steps)
                heapq.heappush(waiting, (wakes, next(order), index, steps))
            except StopIteration as ended:
                done[index] = ended.value
        return done

    def _carry_out(self, argv: list[str], disk: Disk, machine: bool) -> Steps:
        argv = argv[1:] if argv[:1] == ["gcloud"] else argv
        self.calls.append(argv)
        command = self._command(argv)
        where = f"(gcloud.{command.replace(' ', '.')})"
        try:
            if not command:
                raise Refusal(f"Invalid choice: '{' '.join(argv[:4])}'.", 2)
            call = parse(command, argv[len(command.split()) :])
            call.disk = disk
            yield self.faults.delay("latency")
            self._admit(call, machine)
            result = self._handlers[command](call)
            if isinstance(result, Generator):
                result = yield from result
            if isinstance(result, Completed):
                return result  # of ssh, which has its own way to be lost
            if self.faults.happens("lost reply"):
                return Completed(1, "", f"ERROR: gcloud crashed (ConnectionError): {_RESET}\n")
            return Completed(0, printed(result, call), "")
        except Refusal as refusal:
            return Completed(refusal.code, "", f"ERROR: {where} {refusal}\n")

    def _command(self, argv: list[str]) -> str:
        words = list(itertools.takewhile(lambda word: not word.startswith("-"), argv[:5]))
        while words and " ".join(words) not in self._handlers:
            words.pop()
        return " ".join(words)

    def _admit(self, call: Call, machine: bool) -> None:
        """What stands before every command: login, permission, and the weather."""
        if call.command.split()[0] in ("config", "version", "auth"):
            return
        if self.account is None and not machine:
            raise Refusal(NOT_LOGGED_IN)
        if "project" not in call.flags and not self.config["project"]:
            raise Refusal("The required property [project] is not currently set.")
        api = "tpu" if " tpus " in call.command else call.command.split()[0]
        if api in self.disabled:
            raise Refusal(
                f"PERMISSION_DENIED: Cloud {api.upper()} API has not been used in project 123 "
                "before or it is disabled. Enable it by visiting https://console.developers."
                f"google.com/apis/api/{api}.googleapis.com/overview?project=123 then retry."
            )
        if call.command in self.denied:
            raise Refusal(
                f"PERMISSION_DENIED: Permission '{api}.{call.command.split()[-1]}' denied on "
                f"resource '//{api}.googleapis.com/projects/{PROJECT}' (or it may not exist)."
            )
        if self.faults.happens("unavailable"):
            raise Refusal("UNAVAILABLE: The service is currently unavailable.")

    def later(self, delay: str, action: Callable[[], None]) -> None:
        """Does something after a delay."""
        self.clock.at(self.clock.now() + self.faults.delay(delay), action)

    def finish(self, call: Call, busy: Callable[[], bool], result: Any = None) -> Any:
        """The result of an operation, for which gcloud waits unless --async is given."""
        return result if "async" in call.flags else self._wait(busy, result)

    def _wait(self, busy: Callable[[], bool], result: Any) -> Generator[float, None, Any]:
        while busy():
            yield POLL
        return result

    def zone(self, call: Call) -> str:
        """The zone of a command.

        Raises:
          Refusal: it has none.
        """
        zone = call.flags.get("zone") or self.config["compute/zone"]
        if not zone:
            raise Refusal("argument --zone: Must be specified.", 2)
        if zone != "-" and not re.fullmatch(r"[a-z]+-[a-z]+\d+-[a-z0-9]+", zone):
            raise Refusal(
                f"PERMISSION_DENIED: Permission denied on 'locations/{zone}' (or it may not "
                f"exist). This command is authenticated as {self.account} which is the active "
                "account specified by the [core/account] property."
            )
        return zone

    def boot(self, vm: Vm, metadata: Mapping[str, str]) -> None:
        """Starts a new machine."""
        self.alive.add(vm)
        self.machines.boot(vm, metadata)

    def reboot(self, vm: Vm) -> None:
        """Restarts a machine, which for some time cannot be reached."""
        if vm in self.alive:
            self.ssh.cut(vm, self.faults.delay("boot"))
            self.machines.reboot(vm)

    def vanish(self, vm: Vm) -> None:
        """Ends a machine, if there is one."""
        self.ssh.forget(vm)
        if vm in self.alive:
            self.alive.remove(vm)
            self.machines.vanish(vm)

    def charge_quota(self, chips: int) -> None:
        """Refuses what is above the quota.

        Raises:
          Refusal: it is.
        """
        used = self.tpu.chips() + self.compute.chips()
        if used + chips > self.quota or self.faults.happens("quota"):
            raise Refusal(
                "RESOURCE_EXHAUSTED: Quota limit 'TPUV5sLitepodPerProjectPerZoneForTPUAPI' has "
                f"been exceeded. Limit: {min(self.quota, used)} in zone."
            )

    def leaked(self) -> list[str]:
        """All that still costs, or eats quota."""
        disks = [f"disk {name}" for name in self.disks]
        return self.tpu.left() + self.compute.left() + disks

    def _own_handlers(self) -> dict[str, Handler]:
        return {
            "version": lambda call: {"Google Cloud SDK": "528.0.0", "core": "2025.06.20"},
            "auth list": self._accounts,
            "config get": self._configured,
        }

    def _accounts(self, call: Call) -> list[dict[str, str]]:
        return [{"account": self.account, "status": "ACTIVE"}] if self.account else []

    def _configured(self, call: Call) -> Any:
        value = self.account if call.name == "account" else self.config.get(call.name)
        if not value:
            return Completed(0, "", "(unset)\n")
        return value


def given_up(timeout: float) -> Completed:
    """What is left of a command that took too long."""
    return Completed(124, "", f"timed out after {timeout:.0f} s\n")


_RESET = "('Connection aborted.', ConnectionResetError(104, 'Connection reset by peer'))"
