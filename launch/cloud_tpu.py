"""The Cloud TPU API, for generations up to v6e: queued resources, and nodes created directly."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from launch.cloud import SCOPE, Resources, State, metadata_flag
from launch.gcloud import Argv, LocalHost, call_json, describe_resource
from launch.plan import METADATA, Plan
from research.common.errors import UserError

TPUS = ["gcloud", "compute", "tpus"]

# https://cloud.google.com/tpu/docs/reference/rest/v2/projects.locations.queuedResources
_REQUEST = {
    "CREATING": State.CREATING,
    "ACCEPTED": State.WAITING,
    "WAITING_FOR_RESOURCES": State.WAITING,
    "PROVISIONING": State.CREATING,
    "FAILED": State.FAILED,
    "SUSPENDING": State.LOST,
    "SUSPENDED": State.LOST,
    "DELETING": State.DELETING,
}
# https://cloud.google.com/tpu/docs/reference/rest/v2/projects.locations.nodes
_NODE = {
    "READY": State.READY,
    "PREEMPTED": State.LOST,
    "TERMINATED": State.LOST,
    "STOPPING": State.LOST,
    "STOPPED": State.LOST,
    "HIDING": State.LOST,
    "HIDDEN": State.LOST,
    "DELETING": State.DELETING,
}  # all other states precede READY: CREATING, STARTING, RESTARTING, REIMAGING, REPAIRING, ...
_WORST_FIRST = (State.LOST, State.DELETING, State.CREATING)


class CloudTPU:
    """The `gcloud compute tpus` commands for a plan.

    Raises:
      UserError: the Cloud TPU API does not support the plan.
    """

    def __init__(self, plan: Plan):
        if plan.capacity == "flex-start":
            raise UserError(f"invalid --flex-start: not offered for {plan.accelerator}; use --spot")
        self.plan = plan
        self._where = [f"--project={plan.project}", f"--zone={plan.zone}"]

    def create(self, metadata: Path) -> list[Argv]:
        plan = self.plan
        flags = [f"--accelerator-type={plan.accelerator}", *self._machine(), *self._where]
        flags += [metadata_flag(metadata), "--quiet"]
        if not plan.queued:
            version = f"--version={plan.image}"
            # Without --async, so that gcloud reports missing capacity.
            return [[*TPUS, "tpu-vm", "create", plan.name, version, *flags]]
        if plan.slices == 1:
            nodes = [f"--node-id={plan.name}"]
        else:
            nodes = [f"--node-count={plan.slices}", f"--node-prefix={plan.name}"]
        # gcloud ignores --valid-until-duration without --valid-after-duration.
        until = f"--valid-until-duration={max(1, round(plan.max_wait_hours * 3600))}s"
        nodes += [f"--runtime-version={plan.image}", "--valid-after-duration=0s", until]
        return [[*TPUS, "queued-resources", "create", plan.name, *nodes, *flags, "--async"]]

    def _machine(self) -> list[str]:
        plan = self.plan
        flags = {"spot": ["--spot"], "reserved": ["--reserved"], "on-demand": []}[plan.capacity]
        flags += [f"--network={plan.network}"] if plan.network else []
        flags += [f"--subnetwork={plan.subnetwork}"] if plan.subnetwork else []
        flags += [f"--service-account={plan.service_account}"] if plan.service_account else []
        return [*flags, *(["--internal-ips"] if plan.internal_ips else []), f"--scopes={SCOPE}"]

    def delete(self) -> list[Argv]:
        flags = [*self._where, "--quiet", "--async"]
        nodes = [[*TPUS, "tpu-vm", "delete", node, *flags] for node in self.plan.nodes]
        if not self.plan.queued:
            return nodes
        # --force deletes the nodes of the request, but not those of an earlier request.
        return [[*TPUS, "queued-resources", "delete", self.plan.name, *flags, "--force"], *nodes]

    def describe(self, local_host: LocalHost) -> Resources:
        asked = [*TPUS, "queued-resources", "describe", self.plan.name, *self._where]
        request = describe_resource(local_host, asked) if self.plan.queued else None
        listed = call_json(local_host, [*TPUS, "tpu-vm", "list", *self._where])
        nodes = {
            name: node for node in listed if (name := base_name(node["name"])) in self.plan.nodes
        }
        states = [f"{name} {node.get('state', 'UNKNOWN')}" for name, node in sorted(nodes.items())]
        if request is not None:
            word, error = request_state(request)
            states.insert(0, f"request {word}{error and f' ({error})'}")
            if word != "ACTIVE":
                return Resources(_REQUEST.get(word, State.CREATING), ", ".join(states))
        elif not nodes:
            return Resources(State.ABSENT)
        elif self.plan.queued:  # the nodes outlived their request
            going = all(node.get("state") == "DELETING" for node in nodes.values())
            return Resources(State.DELETING if going else State.LOST, ", ".join(states))
        return Resources(self._together(nodes.values()), ", ".join(states))

    def _together(self, nodes: Iterable[Any]) -> State:
        states = [_NODE.get(node.get("state", ""), State.CREATING) for node in nodes]
        if len(states) < self.plan.slices:
            states.append(State.CREATING)  # one is being replaced
        return next((state for state in _WORST_FIRST if state in states), State.READY)

    def ssh(self, command: str, resources: Resources) -> list[Argv]:
        flags = [*self._where, *([f"--command={command}", "--quiet"] if command else [])]
        workers = range(self.plan.slice.hosts)
        if self.plan.internal_ips:  # only `queued-resources ssh` supports IAP tunnels
            request = [*TPUS, "queued-resources", "ssh", self.plan.name, "--tunnel-through-iap"]
            return [
                [*request, f"--node={node}", f"--worker={worker}", *flags]
                for node in range(self.plan.slices)
                for worker in workers
            ]
        return [
            [*TPUS, "tpu-vm", "ssh", node, f"--worker={worker}", *flags]
            for node in self.plan.nodes
            for worker in workers
        ]


def find(local_host: LocalHost, name: str, where: list[str]) -> Plan | None:
    """Returns the plan of a queued resource or node; None if it does not exist or has no plan.

    Args:
      local_host: runs gcloud.
      name: the name of the launch.
      where: the flags for project and zone.

    Raises:
      GcloudError: a command failed.
    """
    # A queued resource, a node, or the first of several nodes that outlived their request.
    for noun, called in (("queued-resources", name), ("tpu-vm", name), ("tpu-vm", f"{name}-0")):
        if found := describe_resource(local_host, [*TPUS, noun, "describe", called, *where]):
            return plan_of(found)
    return None


def plan_of(resource: Any) -> Plan | None:
    """Returns the plan in the metadata of a queued resource or node; None if it has none."""
    specs = resource.get("tpu", {}).get("nodeSpec", [])
    node = specs[0].get("node", {}) if specs else resource
    text = node.get("metadata", {}).get(METADATA)
    return Plan.from_metadata(text) if text else None


def request_state(request: Any) -> tuple[str, str]:
    """Returns the state of a queued resource and its error message."""
    state = request.get("state", {})
    error = state.get("failedData", {}).get("error", {}).get("message", "")
    return state.get("state", "UNKNOWN"), error


def base_name(name: str) -> str:
    """Returns the last part of a resource's full name."""
    return name.rpartition("/")[2]
