"""gcloud's ssh and scp: to one machine or several, with ten tries each."""

from __future__ import annotations

import math
from collections.abc import Generator
from typing import TYPE_CHECKING

from tests.launch.twin.command import Call, Completed, Refusal, Steps, Vm

if TYPE_CHECKING:
    from tests.launch.twin.cloud import FakeCloud


class Ssh:
    """The network between the laptop and the machines."""

    def __init__(self, cloud: FakeCloud):
        self._cloud = cloud
        self._deaf_until: dict[Vm, float] = {}

    def cut(self, vm: Vm, seconds: float = math.inf) -> None:
        """Makes a machine unreachable for so long."""
        self._deaf_until[vm] = self._cloud.clock.now() + seconds

    def forget(self, vm: Vm) -> None:
        """The machine is gone, and the next of its name is reachable."""
        self._deaf_until.pop(vm, None)

    def run(self, call: Call, vms: list[Vm]) -> Steps:
        """Runs `--command` on machines. What they print comes one machine after the other."""
        if "output-directory" in call.flags:
            # gcloud 528 forgets the folder, and writes to one that is named None.
            raise Refusal("Unable to write file [None/0.log]: No such file or directory")
        command = call.need("command")
        reached, error = yield from self._connect(vms)
        ran = yield from self._cloud.machines.run(reached, command)
        results = dict(zip(reached, ran, strict=True))
        if reached and self._cloud.faults.happens("lost reply"):
            lost = reached[-1]
            results[lost] = Completed(255, "", "client_loop: send disconnect: Broken pipe\n")
        ended = [results.get(vm, Completed(255, "", error)) for vm in vms]
        return self._together(call, vms, ended)

    def copy(self, call: Call, vms: list[Vm], source: str, target: str) -> Steps:
        """Copies files to machines, or from one: the side with a colon is theirs."""
        reached, error = yield from self._connect(vms)
        machines = self._cloud.machines
        if ":" in target:
            place = target.partition(":")[2]
            results = {vm: machines.copy(vm, str(call.disk.path(source)), place) for vm in reached}
        else:
            place = source.partition(":")[2]
            results = {vm: machines.fetch(vm, place, str(call.disk.path(target))) for vm in reached}
        ended = [results.get(vm, Completed(255, "", error)) for vm in vms]
        return self._together(call, vms, ended)

    def _connect(self, vms: list[Vm]) -> Generator[float, None, tuple[list[Vm], str]]:
        """The machines that answer, after the time that it takes."""
        cloud, now = self._cloud, self._cloud.clock.now()
        broken: set[Vm] = set()
        for vm in vms:
            if cloud.faults.happens("ssh forever"):
                self.cut(vm)
            elif cloud.faults.happens("ssh minute"):
                self.cut(vm, 60.0)
            elif cloud.faults.happens("ssh once"):
                broken.add(vm)
        deaf = [vm for vm in vms if self._deaf_until.get(vm, 0.0) > now]
        yield cloud.faults.delay("ssh timeout" if deaf else "ssh")
        reached = [vm for vm in vms if vm not in broken and vm not in deaf and vm in cloud.alive]
        refused = "Connection timed out" if deaf else "Connection closed by remote host"
        return reached, f"ssh: connect to host port 22: {refused}\n"

    def _together(self, call: Call, vms: list[Vm], ended: list[Completed]) -> Completed:
        where = f"(gcloud.{call.command.replace(' ', '.')})"
        stdout = "".join(one.stdout for one in ended)
        stderr = "".join(one.stderr for one in ended)
        if len(vms) > 1:
            for vm, one in zip(vms, ended, strict=True):
                if one.returncode:
                    stderr += (
                        f"##### Command execution on worker {vm.worker} failed with exit status "
                        f"{one.returncode}. Continuing.\n"
                    )
        code = next((one.returncode for one in ended if one.returncode), 0)
        if code == 255:
            stderr += f"ERROR: {where} [/usr/bin/ssh] exited with return code [255].\n"
        return Completed(code, stdout, stderr)


def indexes(flag: str, name: str, count: int) -> list[int]:
    """Those that `--worker` or `--node` names: all, 0, 1,3 or 0-2.

    Raises:
      Refusal: there are none of that number.
    """
    if flag.lower() == "all":
        return list(range(count))
    found: set[int] = set()
    for part in flag.split(","):
        first, _, last = part.partition("-")
        found.update(range(int(first), int(last or first) + 1))
    if max(found) >= count:
        raise Refusal(
            f"Invalid value for [--{name}]: {name} index {max(found)} is larger than the valid "
            f"{name} indexes on this TPU VM. Please only use indexes in the range "
            f"[0, {count - 1}], inclusive."
        )
    return sorted(found)
