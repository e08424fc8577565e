"""Compute Engine, for TPU7x: a workload policy, an instance template, a managed instance group."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from launch.cloud import SCOPE, Resources, State, metadata_flag
from launch.gcloud import Argv, LocalHost, call_json, describe_resource
from launch.plan import METADATA, Plan
from research.common.errors import UserError

COMPUTE = ["gcloud", "compute"]
GROUPS = [*COMPUTE, "instance-groups", "managed"]
IMAGE_PROJECT = "ubuntu-os-accelerator-images"
DISK = ("--boot-disk-size=200GB", "--boot-disk-type=hyperdisk-balanced")
_MODELS = {"on-demand": "STANDARD", "spot": "SPOT", "flex-start": "FLEX_START"}
_WAITING = ("PENDING", "PROVISIONING", "STAGING", "REPAIRING")


class ComputeEngine:
    """The `gcloud compute` commands for a plan.

    Raises:
      UserError: Compute Engine does not support the plan.
    """

    def __init__(self, plan: Plan):
        if plan.slices > 1:
            problem = f"{plan.accelerator} has no multislice; use --slices=1"
            raise UserError(f"invalid --slices={plan.slices}: {problem}")
        if plan.capacity == "reserved":
            raise UserError(f"invalid --reserved: not offered for {plan.accelerator}; use --spot")
        self.plan = plan
        self._zone = [f"--project={plan.project}", f"--zone={plan.zone}"]
        self._region_name = plan.zone.rpartition("-")[0]
        self._region = [f"--project={plan.project}", f"--region={self._region_name}"]

    def create(self, metadata: Path) -> list[Argv]:
        plan = self.plan
        regional = f"projects/{plan.project}/regions/{self._region_name}"
        template = f"--template={regional}/instanceTemplates/{plan.name}"
        group = [*GROUPS, "create", plan.name, f"--size={plan.slice.hosts}", template, *self._zone]
        group += ["--default-action-on-vm-failure=do-nothing", "--quiet"]
        if plan.slice.hosts == 1:
            return [self._template(metadata), group]
        # In bulk mode the group creates all machines of the slice or none.
        policy = f"--workload-policy={regional}/resourcePolicies/{plan.name}"
        group += ["--target-size-policy-mode=bulk", policy]
        return [self._template(metadata), self._policy(), group]

    def _policy(self) -> Argv:
        topology = f"--accelerator-topology={self.plan.slice.topology}"
        kind = [*COMPUTE, "resource-policies", "create", "workload-policy", self.plan.name]
        return [*kind, "--type=high-throughput", topology, *self._region, "--quiet"]

    def _template(self, metadata: Path) -> Argv:
        plan = self.plan
        flags = [
            f"--project={plan.project}",
            f"--instance-template-region={self._region_name}",
            f"--machine-type={plan.slice.machine_type}",
            f"--image-project={IMAGE_PROJECT}",
            f"--image-family={plan.image}",
            *DISK,
            "--maintenance-policy=TERMINATE",
            f"--provisioning-model={_MODELS[plan.capacity]}",
            # The cloud's own timer, in addition to the dead man's timer.
            f"--max-run-duration={max(30, round(plan.hours * 3600))}s",
            "--instance-termination-action=DELETE",
            f"--scopes={SCOPE}",
        ]
        flags += [f"--service-account={plan.service_account}"] if plan.service_account else []
        flags += [f"--network={plan.network}"] if plan.network else []
        flags += [f"--subnet={plan.subnetwork}"] if plan.subnetwork else []
        flags += ["--no-address"] if plan.internal_ips else []
        create = [*COMPUTE, "instance-templates", "create", plan.name]
        return [*create, *flags, metadata_flag(metadata), "--quiet"]

    def delete(self) -> list[Argv]:
        name = self.plan.name
        return [
            [*GROUPS, "delete", name, *self._zone, "--quiet"],
            [*COMPUTE, "resource-policies", "delete", name, *self._region, "--quiet"],
            # Last, because `find` reads the plan from it.
            [*COMPUTE, "instance-templates", "delete", name, *self._region, "--quiet"],
        ]

    def describe(self, local_host: LocalHost) -> Resources:
        group = describe_resource(local_host, [*GROUPS, "describe", self.plan.name, *self._zone])
        if group is None:
            left = [
                noun
                for noun in ("instance-templates", "resource-policies")
                if describe_resource(
                    local_host, [*COMPUTE, noun, "describe", self.plan.name, *self._region]
                )
            ]
            detail = f"without a group: {', '.join(left)}"
            return Resources(State.REMAINS, detail) if left else Resources(State.ABSENT)
        listed = call_json(local_host, [*GROUPS, "list-instances", self.plan.name, *self._zone])
        words = [instance.get("instanceStatus", "") for instance in listed]
        names = tuple(sorted(instance["name"] for instance in listed))
        detail = ", ".join(f"{i['name']} {_error(i) or i.get('instanceStatus')}" for i in listed)
        return Resources(self._state(group, listed, words), detail, names)

    def _state(self, group: Any, listed: list[Any], words: list[str]) -> State:
        if group.get("currentActions", {}).get("deleting"):
            return State.DELETING
        if any(_error(instance) for instance in listed):
            return State.FAILED
        if words.count("RUNNING") == self.plan.slice.hosts:
            return State.READY
        waits = not group.get("status", {}).get("isStable", False)
        if any(word in _WAITING or not word for word in words) or (waits and not listed):
            return State.CREATING
        return State.LOST

    def ssh(self, command: str, resources: Resources) -> list[Argv]:
        through = ["--tunnel-through-iap"] if self.plan.internal_ips else []
        flags = [*self._zone, *through, *([f"--command={command}", "--quiet"] if command else [])]
        return [[*COMPUTE, "ssh", machine, *flags] for machine in resources.machines]


def _error(instance: Any) -> str:
    errors = instance.get("lastAttempt", {}).get("errors", {}).get("errors", [])
    return "; ".join(f"{error.get('code')}: {error.get('message')}" for error in errors)


def find(local_host: LocalHost, name: str, where: list[str]) -> Plan | None:
    """Returns the plan in an instance template; None if it does not exist or has no plan.

    Args:
      local_host: runs gcloud.
      name: the name of the launch.
      where: the flags for project and region.

    Raises:
      GcloudError: the command failed.
    """
    template = describe_resource(
        local_host, [*COMPUTE, "instance-templates", "describe", name, *where]
    )
    return plan_of(template.get("properties", {})) if template else None


def plan_of(resource: Any) -> Plan | None:
    """Returns the plan in the metadata of an instance or of a template's properties."""
    items = resource.get("metadata", {}).get("items", [])
    text = next((item["value"] for item in items if item["key"] == METADATA), None)
    return Plan.from_metadata(text) if text else None
