"""Lists the billable resources of a project, with the launches that created them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from launch import cloud_tpu, compute_engine
from launch.accelerators import parse
from launch.gcloud import Argv, GcloudError, Kind, LocalHost, call_json
from launch.plan import Plan
from research.common.errors import UserError


@dataclass(frozen=True)
class Item:
    """A resource that costs money or quota."""

    kind: str
    """node, request, machine, group or disk."""

    name: str
    zone: str
    state: str

    plan: Plan | None = None
    """The plan of the launch that created it; None if another tool did."""

    dollars_per_hour: float | None = 0.0
    """List price; None if unknown."""

    delete: tuple[str, ...] = ()
    """The command that deletes it."""


def billable_resources(local_host: LocalHost, project: str) -> list[Item]:
    """Returns all TPU nodes, queued resources, TPU VMs and their groups, and unattached disks.

    An API that is not enabled has no resources.

    Raises:
      GcloudError: a command failed.
    """
    found: list[Item] = []
    for list_items in (_requests, _nodes, _groups, _machines, _disks):
        try:
            found += list_items(local_host, f"--project={project}")
        except GcloudError as error:
            if error.kind is not Kind.DISABLED:
                raise
    return found


def _listed(local_host: LocalHost, argv: Argv) -> list[Any]:
    return call_json(local_host, argv) or []


def _requests(local_host: LocalHost, project: str) -> Iterator[Item]:
    for request in _listed(
        local_host, [*cloud_tpu.TPUS, "queued-resources", "list", project, "--zone=-"]
    ):
        name, zone = cloud_tpu.base_name(request["name"]), request["name"].split("/")[3]
        state, _ = cloud_tpu.request_state(request)
        delete = [*cloud_tpu.TPUS, "queued-resources", "delete", name, project, f"--zone={zone}"]
        plan = _plan_or_none(cloud_tpu.plan_of, request)
        yield Item("request", name, zone, state, plan, 0.0, (*delete, "--force"))


def _nodes(local_host: LocalHost, project: str) -> Iterator[Item]:
    for node in _listed(local_host, [*cloud_tpu.TPUS, "tpu-vm", "list", project, "--zone=-"]):
        name, zone = cloud_tpu.base_name(node["name"]), node["name"].split("/")[3]
        spot = bool(node.get("schedulingConfig", {}).get("spot"))
        dollars = _price(node.get("acceleratorType", ""), zone, spot)
        delete = [*cloud_tpu.TPUS, "tpu-vm", "delete", name, project, f"--zone={zone}"]
        plan = _plan_or_none(cloud_tpu.plan_of, node)
        yield Item("node", name, zone, node.get("state", ""), plan, dollars, tuple(delete))


def _groups(local_host: LocalHost, project: str) -> Iterator[Item]:
    """Yields the groups of this launcher, which have the name of their template."""
    templates = [*compute_engine.COMPUTE, "instance-templates", "list", project]
    plans = {
        template["name"]: plan
        for template in _listed(local_host, templates)
        if (plan := _plan_or_none(compute_engine.plan_of, template.get("properties", {})))
    }
    for name, plan in plans.items():
        delete = (*compute_engine.GROUPS, "delete", name, project, f"--zone={plan.zone}")
        yield Item("group", name, plan.zone, "", plan, 0.0, delete)


def _machines(local_host: LocalHost, project: str) -> Iterator[Item]:
    for machine in _listed(local_host, [*compute_engine.COMPUTE, "instances", "list", project]):
        kind = cloud_tpu.base_name(machine.get("machineType", ""))
        if not kind.startswith(("tpu", "ct")):
            continue
        name, zone = machine["name"], cloud_tpu.base_name(machine["zone"])
        plan = _plan_or_none(compute_engine.plan_of, machine)
        dollars = plan.dollars_per_hour if plan else None
        if plan and dollars is not None:
            dollars /= plan.workers
        delete = (*compute_engine.COMPUTE, "instances", "delete", name, project, f"--zone={zone}")
        yield Item("machine", name, zone, machine.get("status", ""), plan, dollars, delete)


def _disks(local_host: LocalHost, project: str) -> Iterator[Item]:
    """Yields unattached disks; VMs delete their own disks."""
    for disk in _listed(local_host, [*compute_engine.COMPUTE, "disks", "list", project]):
        if disk.get("users"):
            continue
        name, zone = disk["name"], cloud_tpu.base_name(disk.get("zone", ""))
        size = f"{disk.get('sizeGb', '?')} GB"
        delete = (*compute_engine.COMPUTE, "disks", "delete", name, project, f"--zone={zone}")
        yield Item("disk", name, zone, size, None, None, delete)


def _plan_or_none(plan_of: Any, resource: Any) -> Plan | None:
    """Returns the plan of a resource; None if there is none or it is invalid."""
    try:
        return plan_of(resource)
    except UserError:
        return None


def _price(accelerator: str, zone: str, spot: bool) -> float | None:
    """Returns the dollars per hour of a slice; None if unknown."""
    try:
        slice_ = parse(accelerator)
    except UserError:
        return None
    price = slice_.price(zone, spot=spot)
    return None if price is None else price.dollars * slice_.chips
