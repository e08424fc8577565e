"""Compute Engine, as far as slices of TPU7x need it: a workload policy, an instance template, and a
managed instance group in bulk mode.

https://cloud.google.com/compute/docs/instance-groups/about-bulk-mode
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tests.launch.twin.command import PROJECT, Call, Handler, Refusal, Steps, Vm
from tests.launch.twin.tpu_api import check_name, ends, seconds, stamp

if TYPE_CHECKING:
    from tests.launch.twin.cloud import FakeCloud

CHIPS = {"tpu7x-standard-1t": 1, "tpu7x-standard-4t": 4}
ZONES = ("us-central1-c", "us-central1-ai1a", "us-east5-a")
URL = "https://www.googleapis.com/compute/v1/projects"


@dataclass
class Template:
    name: str
    region: str  # "": global
    flags: dict[str, str]
    metadata: dict[str, str]
    labels: dict[str, str]


@dataclass
class Instance:
    name: str
    worker: int  # the number that the machine itself is told
    status: str = "PENDING"
    address: str = ""
    created: float = 0.0

    @property
    def vm(self) -> Vm:
        return Vm(self.name, 0)


@dataclass
class Group:
    name: str
    zone: str
    template: Template
    policy: str
    repairs: bool
    instances: list[Instance] = field(default_factory=list)
    error: str = ""
    deleting: bool = False


class ComputeApi:
    """`gcloud compute`, without TPUs of the other API."""

    def __init__(self, cloud: FakeCloud):
        self._cloud = cloud
        self.policies: dict[str, str] = {}  # name to region
        self.templates: dict[str, Template] = {}
        self.groups: dict[str, Group] = {}

    def handlers(self) -> dict[str, Handler]:
        policies, templates = "compute resource-policies", "compute instance-templates"
        groups = "compute instance-groups managed"
        return {
            f"{policies} create workload-policy": self._create_policy,
            f"{policies} describe": self._describe_policy,
            f"{policies} list": self._list_policies,
            f"{policies} delete": self._delete_policy,
            f"{templates} create": self._create_template,
            f"{templates} describe": lambda call: describe_template(self._template_of(call)),
            f"{templates} list": self._list_templates,
            f"{templates} delete": self._delete_template,
            f"{groups} create": self._create_group,
            f"{groups} describe": self._describe_group,
            f"{groups} list": self._list_groups,
            f"{groups} list-instances": self._list_managed,
            f"{groups} delete": self._delete_group,
            "compute instances list": self._list_instances,
            "compute instances delete": self._delete_instances,
            "compute disks list": self._list_disks,
            "compute ssh": self._ssh,
            "compute scp": self._scp,
        }

    def chips(self) -> int:
        """All that the quota counts."""
        return sum(self._chips(g) * len(g.instances) for g in self.groups.values())

    def left(self) -> list[str]:
        """What costs or eats quota; templates, policies and empty groups do not."""
        instances = [i for group in self.groups.values() for i in group.instances]
        return [f"instance {i.name} {i.status}" for i in instances]

    def leftovers(self) -> list[str]:
        """What costs nothing, and should be gone all the same."""
        return [
            *(f"managed instance group {name}" for name in self.groups),
            *(f"instance template {name}" for name in self.templates),
            *(f"workload policy {name}" for name in self.policies),
        ]

    # Policies and templates

    def _create_policy(self, call: Call) -> Any:
        check_name(call.name)
        call.need("accelerator-topology")
        if call.name in self.policies:
            raise Refusal(self._exists(f"regions/{call.need('region')}/resourcePolicies", call))
        self.policies[call.name] = call.need("region")
        return None

    def _describe_policy(self, call: Call) -> Any:
        if call.name not in self.policies:
            raise Refusal(self._absent(f"regions/{call.need('region')}/resourcePolicies", call))
        return {"name": call.name, "region": self.policies[call.name]}

    def _list_policies(self, call: Call) -> Any:
        return [{"name": name, "region": region} for name, region in self.policies.items()]

    def _delete_policy(self, call: Call) -> Any:
        self._describe_policy(call)
        users = [g.name for g in self.groups.values() if g.policy == call.name]
        self._unused("resource_policy", call.name, users)
        del self.policies[call.name]

    def _create_template(self, call: Call) -> Any:
        check_name(call.name)
        region, flags = call.flags.get("instance-template-region", ""), call.flags
        if call.name in self.templates:
            raise Refusal(self._exists("global/instanceTemplates", call))
        if "instance-termination-action" in flags and not {
            "provisioning-model",
            "max-run-duration",
        } & set(flags):
            raise Refusal("argument --provisioning-model: Must be specified.", 2)
        self.templates[call.name] = Template(
            call.name, region, flags, call.metadata(), call.pairs("labels")
        )
        return None

    def _template_of(self, call: Call) -> Template:
        template = self.templates.get(call.name)
        if template is None or template.region != call.flags.get("region", ""):
            raise Refusal(self._absent("global/instanceTemplates", call))
        return template

    def _list_templates(self, call: Call) -> Any:
        return [describe_template(template) for template in self.templates.values()]

    def _delete_template(self, call: Call) -> Any:
        template = self._template_of(call)
        users = [g.name for g in self.groups.values() if g.template is template]
        self._unused("instance_template", call.name, users)
        del self.templates[call.name]

    def _unused(self, kind: str, name: str, users: list[str]) -> None:
        if users:
            raise Refusal(
                f"Could not fetch resource:\n - The {kind} resource 'projects/{PROJECT}/{name}' "
                f"is already being used by 'projects/{PROJECT}/instanceGroupManagers/{users[0]}'"
            )

    # Groups

    def _create_group(self, call: Call) -> Any:
        cloud, zone, size = self._cloud, self._zone(call), int(call.need("size"))
        check_name(call.name)
        if call.name in self.groups:
            raise Refusal(self._exists(f"zones/{zone}/instanceGroupManagers", call))
        group = Group(
            call.name,
            zone,
            self._template(call),
            self._policy(call, size),
            repairs=call.flags.get("default-action-on-vm-failure") != "do-nothing",
        )
        cloud.charge_quota(self._chips(group) * size)
        self.groups[group.name] = group
        order = cloud.faults.random.sample(range(size), size)
        group.instances = [Instance(self._instance_name(group), worker) for worker in order]
        self._ask(group)
        return None

    def _ask(self, group: Group) -> None:
        """Bulk: waits until all can be had."""
        if self._cloud.faults.happens("stock-out"):
            group.error = "ZONE_RESOURCE_POOL_EXHAUSTED"
            self._cloud.later("stock-out", lambda: self._stage(group))
        else:
            self._stage(group)

    def _stage(self, group: Group) -> None:
        if self.groups.get(group.name) is group and not group.deleting:
            group.error = ""
            for instance in group.instances:
                instance.status, instance.created = "STAGING", self._cloud.clock.now()
            self._cloud.later("creation", lambda: self._run(group))

    def _run(self, group: Group) -> None:
        if self.groups.get(group.name) is not group or group.deleting:
            return
        for instance in group.instances:
            instance.address = next(self._cloud.addresses)
        for instance in sorted(group.instances, key=lambda one: one.worker):
            self._start(group, instance)

    def _start(self, group: Group, instance: Instance) -> None:
        cloud, flags = self._cloud, group.template.flags
        instance.status = "RUNNING"
        cloud.meter.start(instance.name, "tpu7x", self._chips(group))
        if cloud.faults.happens("half node"):
            cloud.ssh.cut(instance.vm)
        cloud.boot(instance.vm, self._attributes(group, instance))
        end = seconds(flags.get("max-run-duration", ""))
        if end:
            cloud.clock.at(cloud.clock.now() + end, lambda: self.preempt(group, instance))
        if flags.get("provisioning-model") == "SPOT" and cloud.faults.happens("preemption"):
            cloud.later("preemption", lambda: self.preempt(group, instance))
        if cloud.faults.happens("maintenance"):
            cloud.later("maintenance", lambda: self._maintain(group, instance))

    def _attributes(self, group: Group, instance: Instance) -> dict[str, str]:
        ranked = sorted(group.instances, key=lambda one: one.worker)
        kind = f"tpu7x-{2 * self._chips(group) * len(ranked)}"
        return group.template.metadata | {
            "agent-worker-number": str(instance.worker),
            "worker-network-endpoints": ",".join(one.address for one in ranked),
            "tpu-env": f"ACCELERATOR_TYPE: '{kind}'\nWORKER_ID: '{instance.worker}'\n",
            "accelerator-type": kind,
            "instance/name": instance.name,
            "instance/ip": instance.address,
        }

    def preempt(self, group: Group, instance: Instance) -> None:
        """Takes an instance away; a group that repairs makes another one in its place."""
        if instance not in group.instances or self.groups.get(group.name) is not group:
            return
        if instance.status != "RUNNING":
            return
        self._lose(instance)
        if group.repairs and not group.deleting:
            instance.status, instance.name = "STAGING", self._instance_name(group)
            self._cloud.later("repair", lambda: self._repaired(group, instance))
        elif group.template.flags.get("instance-termination-action") == "DELETE":
            group.instances.remove(instance)
        else:
            instance.status = "TERMINATED"

    def _repaired(self, group: Group, instance: Instance) -> None:
        if self.groups.get(group.name) is group and not group.deleting:
            self._start(group, instance)

    def _maintain(self, group: Group, instance: Instance) -> None:
        if instance in group.instances and instance.status == "RUNNING":
            self._cloud.reboot(instance.vm)

    def _lose(self, instance: Instance) -> None:
        self._cloud.meter.stop(instance.name)
        self._cloud.vanish(instance.vm)

    def _delete_group(self, call: Call) -> Any:
        group = self._group(call)
        if not group.deleting:
            group.deleting = True
            for instance in group.instances:
                if instance.status == "RUNNING":
                    instance.status = "STOPPING"
            slow = self._cloud.faults.happens("slow deletion")
            delay = "slow deletion" if slow else "deletion"
            self._cloud.later(delay, lambda: self._remove(group))
        return self._cloud.finish(call, lambda: self.groups.get(group.name) is group)

    def _remove(self, group: Group) -> None:
        for instance in group.instances:
            self._lose(instance)
        group.instances = []
        if self.groups.get(group.name) is group:
            del self.groups[group.name]

    def _delete_instances(self, call: Call) -> Any:
        """Of a group that does not repair; in others the group makes it anew."""
        for name in call.words:
            group, instance = self._instance(name, self._zone(call))
            self._lose(instance)
            group.instances.remove(instance)

    # What is there

    def _describe_group(self, call: Call) -> Any:
        group = self._group(call)
        states = {instance.status for instance in group.instances}
        bulk: dict[str, Any] = {"inProgress": bool(states & {"PENDING", "STAGING"})}
        if group.error:
            bulk["lastProgressCheck"] = {"error": {"errors": [{"code": group.error}]}}
        return {
            "name": group.name,
            "targetSize": len(group.instances),
            "currentActions": {"deleting": len(group.instances) if group.deleting else 0},
            "instanceTemplate": f"{URL}/{PROJECT}/instanceTemplates/{group.template.name}",
            "status": {
                "isStable": states <= {"RUNNING"} and not group.deleting,
                "bulkInstanceOperation": bulk,
            },
        }

    def _list_groups(self, call: Call) -> Any:
        return [
            {"name": g.name, "zone": f"{URL}/{PROJECT}/zones/{g.zone}", "size": len(g.instances)}
            for g in self.groups.values()
        ]

    def _list_managed(self, call: Call) -> Any:
        group = self._group(call)
        return [self._managed(group, instance) for instance in group.instances]

    def _managed(self, group: Group, instance: Instance) -> dict[str, Any]:
        url = f"{URL}/{PROJECT}/zones/{group.zone}/instances/{instance.name}"
        busy = instance.status in ("PENDING", "STAGING")
        action = "DELETING" if group.deleting else "CREATING" if busy else "NONE"
        listed = {"instance": url, "name": instance.name, "currentAction": action}
        if instance.status != "PENDING":
            listed["instanceStatus"] = instance.status
        if group.error:
            errors = [{"code": group.error, "message": "The zone does not have enough resources"}]
            return listed | {"lastAttempt": {"errors": {"errors": errors}}}
        return listed

    def _list_instances(self, call: Call) -> Any:
        zones = [zone for zone in call.flags.get("zones", "").split(",") if zone]
        return [
            self._describe_instance(group, instance)
            for group in self.groups.values()
            if not zones or group.zone in zones
            for instance in group.instances
            if instance.status != "PENDING"
        ]

    def _describe_instance(self, group: Group, instance: Instance) -> dict[str, Any]:
        return {
            "name": instance.name,
            "zone": f"{URL}/{PROJECT}/zones/{group.zone}",
            "status": instance.status,
            "machineType": f"{URL}/{PROJECT}/{group.template.flags.get('machine-type', '')}",
            "creationTimestamp": stamp(instance.created),
            "labels": group.template.labels,
            "metadata": items(group.template.metadata),
            "networkInterfaces": [
                {"networkIP": instance.address, "accessConfigs": [{"natIP": instance.address}]}
            ],
        }

    def _list_disks(self, call: Call) -> Any:
        boots = {i.name: g.zone for g in self.groups.values() for i in g.instances}
        disks = (self._cloud.disks | boots).items()
        return [
            {"name": n, "zone": f"{URL}/{PROJECT}/zones/{z}", "sizeGb": "100"} for n, z in disks
        ]

    # SSH

    def _ssh(self, call: Call) -> Steps:
        call.need("command")
        return self._cloud.ssh.run(call, [self._reachable(call, call.name)])

    def _scp(self, call: Call) -> Steps:
        source, target, name = ends(call)
        return self._cloud.ssh.copy(call, [self._reachable(call, name)], source, target)

    def _reachable(self, call: Call, name: str) -> Vm:
        _, instance = self._instance(name.rpartition("@")[2], self._zone(call))
        if instance.status != "RUNNING":
            raise Refusal(f"Instance [{instance.name}] is not running ({instance.status})")
        return instance.vm

    # Names

    def _instance(self, name: str, zone: str) -> tuple[Group, Instance]:
        for group in self.groups.values():
            for instance in group.instances:
                if instance.name == name and group.zone == zone and instance.status != "PENDING":
                    return group, instance
        raise Refusal(
            "Could not fetch resource:\n - The resource "
            f"'projects/{PROJECT}/zones/{zone}/instances/{name}' was not found"
        )

    def _instance_name(self, group: Group) -> str:
        letters = self._cloud.faults.random.choices("bcdfghjklmnpqrstvwxz0123456789", k=4)
        return f"{group.name}-{''.join(letters)}"

    def _template(self, call: Call) -> Template:
        name = call.need("template").rpartition("/")[2]
        if name not in self.templates:
            raise Refusal(self._absent("global/instanceTemplates", call))
        return self.templates[name]

    def _policy(self, call: Call, size: int) -> str:
        """A slice of several machines needs a policy, by its full name, and bulk mode."""
        url = call.flags.get("workload-policy", "")
        if url and "/" not in url:
            raise Refusal(
                "Invalid value for field 'resource.workloadPolicy': The URL is malformed."
            )
        name = url.rpartition("/")[2]
        if url and name not in self.policies:
            raise Refusal(self._absent("resourcePolicies", call))
        if size > 1 and call.flags.get("target-size-policy-mode", "").lower() != "bulk":
            raise Refusal(
                "MIGs with TPU accelerator topology require BULK mode in target size policy"
            )
        return name

    def _group(self, call: Call) -> Group:
        zone = self._zone(call)
        group = self.groups.get(call.name)
        if group is None or group.zone != zone:
            raise Refusal(self._absent(f"zones/{zone}/instanceGroupManagers", call))
        return group

    def _zone(self, call: Call) -> str:
        zone = self._cloud.zone(call)
        if zone not in ZONES:
            raise Refusal(
                "Could not fetch resource:\n - The resource "
                f"'projects/{PROJECT}/zones/{zone}/machineTypes/tpu7x-standard-4t' was not found"
            )
        return zone

    def _chips(self, group: Group) -> int:
        return CHIPS[re.sub(".*/", "", group.template.flags.get("machine-type", ""))]

    def _absent(self, kind: str, call: Call) -> str:
        return (
            "Could not fetch resource:\n - The resource "
            f"'projects/{PROJECT}/{kind}/{call.name}' was not found"
        )

    def _exists(self, kind: str, call: Call) -> str:
        return (
            "Could not fetch resource:\n - The resource "
            f"'projects/{PROJECT}/{kind}/{call.name}' already exists"
        )


def describe_template(template: Template) -> dict[str, Any]:
    """A template as the API gives it."""
    properties = {
        "machineType": template.flags.get("machine-type", ""),
        "labels": template.labels,
        "metadata": items(template.metadata),
    }
    region = {"region": template.region} if template.region else {}
    return {"name": template.name, "properties": properties, **region}


def items(metadata: dict[str, str]) -> dict[str, Any]:
    """Metadata as Compute Engine gives it."""
    return {"items": [{"key": key, "value": value} for key, value in metadata.items()]}
