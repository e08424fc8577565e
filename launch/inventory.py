"""What there is in a project: the runs of this launcher, and everything that costs money."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from launch import cloud_tpu, compute_engine
from launch.accelerators import parse
from launch.gcloud import Argv, GcloudError, Kind, Laptop, call_json
from launch.plan import Plan
from research.common.errors import UserError


@dataclass(frozen=True)
class Item:
    """Something that costs money or quota."""

    kind: str
    """node, request, machine, group or disk."""

    name: str
    zone: str
    state: str

    plan: Plan | None = None
    """Of the launch that made it; None: made otherwise."""

    dollars_per_hour: float | None = 0.0
    """By the list of prices; None: unknown."""

    delete: tuple[str, ...] = ()
    """The command that does it."""


def everything(laptop: Laptop, project: str) -> list[Item]:
    """All TPU nodes and requests, machines with TPUs and their groups, and disks without a machine.

    Raises:
      GcloudError: the cloud could not be asked. An API that is not enabled holds nothing.
    """
    found: list[Item] = []
    for look in (_requests, _nodes, _groups, _machines, _disks):
        try:
            found += look(laptop, f"--project={project}")
        except GcloudError as error:
            if error.kind is not Kind.DISABLED:
                raise
    return found


def _listed(laptop: Laptop, argv: Argv) -> list[Any]:
    return call_json(laptop, argv) or []


def _requests(laptop: Laptop, project: str) -> Iterator[Item]:
    for request in _listed(
        laptop, [*cloud_tpu.TPUS, "queued-resources", "list", project, "--zone=-"]
    ):
        name, zone = cloud_tpu.base(request["name"]), request["name"].split("/")[3]
        state, _ = cloud_tpu.request_state(request)
        delete = [*cloud_tpu.TPUS, "queued-resources", "delete", name, project, f"--zone={zone}"]
        plan = _quietly(cloud_tpu.plan_of, request)
        yield Item("request", name, zone, state, plan, 0.0, (*delete, "--force"))


def _nodes(laptop: Laptop, project: str) -> Iterator[Item]:
    for node in _listed(laptop, [*cloud_tpu.TPUS, "tpu-vm", "list", project, "--zone=-"]):
        name, zone = cloud_tpu.base(node["name"]), node["name"].split("/")[3]
        spot = bool(node.get("schedulingConfig", {}).get("spot"))
        dollars = _price(node.get("acceleratorType", ""), zone, spot)
        delete = [*cloud_tpu.TPUS, "tpu-vm", "delete", name, project, f"--zone={zone}"]
        plan = _quietly(cloud_tpu.plan_of, node)
        yield Item("node", name, zone, node.get("state", ""), plan, dollars, tuple(delete))


def _groups(laptop: Laptop, project: str) -> Iterator[Item]:
    """Those of this launcher, known by a template of their own name."""
    templates = [*compute_engine.COMPUTE, "instance-templates", "list", project]
    plans = {
        template["name"]: plan
        for template in _listed(laptop, templates)
        if (plan := _quietly(compute_engine.plan_of, template.get("properties", {})))
    }
    for name, plan in plans.items():
        delete = (*compute_engine.GROUPS, "delete", name, project, f"--zone={plan.zone}")
        yield Item("group", name, plan.zone, "", plan, 0.0, delete)


def _machines(laptop: Laptop, project: str) -> Iterator[Item]:
    for machine in _listed(laptop, [*compute_engine.COMPUTE, "instances", "list", project]):
        kind = cloud_tpu.base(machine.get("machineType", ""))
        if not kind.startswith(("tpu", "ct")):
            continue
        name, zone = machine["name"], cloud_tpu.base(machine["zone"])
        plan = _quietly(compute_engine.plan_of, machine)
        dollars = plan.dollars_per_hour if plan else None
        if plan and dollars is not None:
            dollars /= plan.workers
        delete = (*compute_engine.COMPUTE, "instances", "delete", name, project, f"--zone={zone}")
        yield Item("machine", name, zone, machine.get("status", ""), plan, dollars, delete)


def _disks(laptop: Laptop, project: str) -> Iterator[Item]:
    """Disks that no machine uses; those of machines come and go with them."""
    for disk in _listed(laptop, [*compute_engine.COMPUTE, "disks", "list", project]):
        if disk.get("users"):
            continue
        name, zone = disk["name"], cloud_tpu.base(disk.get("zone", ""))
        size = f"{disk.get('sizeGb', '?')} GB"
        delete = (*compute_engine.COMPUTE, "disks", "delete", name, project, f"--zone={zone}")
        yield Item("disk", name, zone, size, None, None, delete)


def _quietly(plan_of: Any, resource: Any) -> Plan | None:
    """The plan of a resource, which somebody else may have made in another form."""
    try:
        return plan_of(resource)
    except UserError:
        return None


def _price(accelerator: str, zone: str, spot: bool) -> float | None:
    """Dollars per hour of a slice; None: unknown."""
    try:
        slice_ = parse(accelerator)
    except UserError:
        return None
    price = slice_.price(zone, spot=spot)
    return None if price is None else price.dollars * slice_.chips
