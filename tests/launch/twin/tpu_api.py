"""The Cloud TPU API: nodes, and queued resources that make them.

https://cloud.google.com/tpu/docs/reference/rest/v2/projects.locations.queuedResources
"""

from __future__ import annotations

import json
import re
from collections.abc import Generator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from tests.launch.twin.command import PROJECT, Call, Handler, Refusal, Steps, Vm
from tests.launch.twin.shapes import Shape, check_runtime, shape, shape_of_topology
from tests.launch.twin.ssh import indexes

if TYPE_CHECKING:
    from tests.launch.twin.cloud import FakeCloud

CAPACITY = (
    'There is no more capacity in the zone "{}"; you can try in another zone where Cloud TPU Nodes '
    "are offered (see https://cloud.google.com/tpu/docs/regions) [EID: 0x3]"
)


@dataclass
class Node:
    """A slice, or a request's place for one."""

    name: str
    zone: str
    shape: Shape
    spec: dict[str, Any]  # as `describe` shows it: acceleratorType, metadata, labels...
    metadata: dict[str, str]
    spot: bool
    created: float
    request: Request | None = None
    index: int = 0  # among the request's nodes
    state: str = "CREATING"
    mute: int | None = None  # a worker that never answers
    addresses: list[str] = field(default_factory=list)

    @property
    def vms(self) -> list[Vm]:
        return [Vm(self.name, worker) for worker in range(self.shape.workers)]


@dataclass
class Request:
    """A queued resource."""

    name: str
    zone: str
    nodes: list[Node]
    created: float
    spot: bool
    state: str = "WAITING_FOR_RESOURCES"
    initiator: str = ""
    error: str = ""
    expires: float | None = None


class TpuApi:
    """`gcloud compute tpus`."""

    def __init__(self, cloud: FakeCloud):
        self._cloud = cloud
        self.nodes: dict[str, Node] = {}
        self.requests: dict[str, Request] = {}

    def handlers(self) -> dict[str, Handler]:
        vm, queued = "compute tpus tpu-vm", "compute tpus queued-resources"
        return {
            f"{vm} create": self._create_node,
            f"{vm} describe": lambda call: self._describe(self._node(call)),
            f"{vm} list": self._list_nodes,
            f"{vm} delete": self._delete_node,
            f"{vm} ssh": self._ssh_node,
            f"{vm} scp": self._scp_node,
            f"{queued} create": self._create_request,
            f"{queued} describe": lambda call: describe(self._request(call)),
            f"{queued} list": self._list_requests,
            f"{queued} delete": self._delete_request,
            f"{queued} ssh": self._ssh_request,
            f"{queued} scp": self._scp_request,
        }

    def chips(self) -> int:
        """All that the quota counts: also what was preempted, suspended, or has failed."""
        direct = [node for node in self.nodes.values() if node.request is None]
        queued = [node for request in self.requests.values() for node in request.nodes]
        return sum(node.shape.chips for node in direct + queued)

    def left(self) -> list[str]:
        """What costs or eats quota."""
        requests = [f"queued resource {r.name} {r.state}" for r in self.requests.values()]
        return requests + [f"node {n.name} {n.state}" for n in self.nodes.values()]

    # Nodes

    def _create_node(self, call: Call) -> Any:
        cloud, zone = self._cloud, self._cloud.zone(call)
        check_name(call.name)
        node = self._new_node(call, call.name, zone, call.need("version"))
        if node.name in self.nodes:
            raise Refusal(exists("nodes", zone, node.name))
        cloud.charge_quota(node.shape.chips)
        self.nodes[node.name] = node
        if cloud.faults.happens("stock-out"):
            cloud.later("creation", lambda: self._remove(node))
        else:
            self._begin(node)
        return self._describe(node) if "async" in call.flags else self._created(node)

    def _created(self, node: Node) -> Generator[float, None, Any]:
        yield from self._cloud.finish(Call(""), lambda: self._is(node, "CREATING"))
        if not self._is(node, "READY"):
            raise Refusal(json.dumps({"code": 8, "message": CAPACITY.format(node.zone)}, indent=2))
        return self._describe(node)

    def _new_node(self, call: Call, name: str, zone: str, version: str) -> Node:
        flags, metadata = call.flags, call.metadata()
        if "accelerator-type" in flags:
            form = shape(flags["accelerator-type"], zone)
        elif flags.get("type", "v2") in ("v2", "v3", "v4"):
            form = shape_of_topology(call.need("type"), call.need("topology"), zone)
        else:
            raise Refusal(f"argument --type: Invalid choice: '{flags['type']}'.", 2)
        check_runtime(form.generation, version)
        spot = "spot" in flags or "preemptible" in flags
        spec = {
            "acceleratorType": flags.get("accelerator-type", ""),
            "runtimeVersion": version,
            "metadata": metadata,
            "labels": call.pairs("labels"),
            "schedulingConfig": {"spot": True} if spot else {},
            "networkConfig": {"enableExternalIps": "internal-ips" not in flags},
        }
        return Node(name, zone, form, spec, metadata, spot, self._cloud.clock.now())

    def _begin(self, node: Node) -> None:
        """CREATING, and what will become of it."""
        cloud = self._cloud
        cloud.later("creation", lambda: self._ready(node))
        if node.spot and cloud.faults.happens("preemption"):
            cloud.later("preemption", lambda: self.preempt(node))
        if cloud.faults.happens("maintenance"):
            cloud.later("maintenance", lambda: self.maintain(node))

    def _ready(self, node: Node) -> None:
        cloud = self._cloud
        if not self._is(node, "CREATING") and not self._is(node, "REPAIRING"):
            return
        node.state = "READY"
        node.addresses = [next(cloud.addresses) for _ in node.vms]
        cloud.meter.start(node.name, node.shape.generation, node.shape.chips)
        if cloud.faults.happens("half node"):
            node.mute = cloud.faults.random.randrange(node.shape.workers)
        if node.request is None or node.request.state == "ACTIVE":
            self._boot(node)
        elif all(one.state == "READY" for one in node.request.nodes):
            node.request.state = "ACTIVE"
            for one in node.request.nodes:
                self._boot(one)

    def _boot(self, node: Node) -> None:
        for vm in node.vms:
            if vm.worker != node.mute:
                self._cloud.boot(vm, self._attributes(node, vm.worker))

    def _attributes(self, node: Node, worker: int) -> dict[str, str]:
        """What the machine's metadata server tells, see jax's cloud_tpu_cluster.py."""
        environment = {"ACCELERATOR_TYPE": node.spec["acceleratorType"], "WORKER_ID": str(worker)}
        if node.request and len(node.request.nodes) > 1:
            environment |= {
                "MEGASCALE_COORDINATOR_ADDRESS": node.request.nodes[0].addresses[0],
                "MEGASCALE_NUM_SLICES": str(len(node.request.nodes)),
                "MEGASCALE_SLICE_ID": str(node.index),
            }
        return node.metadata | {
            "agent-worker-number": str(worker),
            "worker-network-endpoints": ",".join(f"unknown:unknown:{ip}" for ip in node.addresses),
            "tpu-env": "".join(f"{key}: '{value}'\n" for key, value in environment.items()),
            "accelerator-type": node.spec["acceleratorType"],
            "instance/name": f"t1v-n-{node.name}-w-{worker}",
            "instance/ip": node.addresses[worker],
        }

    def preempt(self, node: Node) -> None:
        """Takes a node away, whatever it is doing."""
        cloud, request = self._cloud, node.request
        if self.nodes.get(node.name) is not node or node.state in ("PREEMPTED", "TERMINATED"):
            return
        whole = request is not None and request.state == "ACTIVE"
        self._lose(node)
        if whole and len(request.nodes) > 1 and cloud.faults.happens("repair"):  # type: ignore[union-attr]
            node.state = "REPAIRING"
            cloud.later("repair", lambda: self._ready(node))
            return
        deleting = node.state == "DELETING"
        if not deleting:
            node.state = "TERMINATED" if cloud.faults.happens("termination") else "PREEMPTED"
        if request and request.state in ("PROVISIONING", "ACTIVE"):
            self._suspend(request, "SERVICE")

    def maintain(self, node: Node) -> None:
        """Reboots one machine of a node."""
        if self._is(node, "READY"):
            faults = self._cloud.faults
            self._cloud.reboot(Vm(node.name, faults.random.randrange(node.shape.workers)))

    def _lose(self, node: Node) -> None:
        """The machines of a node end."""
        node.mute = None
        self._cloud.meter.stop(node.name)
        for vm in node.vms:
            self._cloud.vanish(vm)

    def _remove(self, node: Node) -> None:
        if self.nodes.get(node.name) is node:
            self._lose(node)
            del self.nodes[node.name]
            request = node.request
            gone = request and not any(one.name in self.nodes for one in request.nodes)
            if request and gone and request.state in ("ACTIVE", "PROVISIONING"):
                self._suspend(request, "USER")

    def _delete_node(self, call: Call) -> Any:
        node = self._node(call)
        if node.state != "DELETING":
            node.state = "DELETING"
            self._in_a_while(lambda: self._remove(node))
        return self._cloud.finish(call, lambda: self.nodes.get(node.name) is node)

    def _in_a_while(self, action: Any) -> None:
        slow = self._cloud.faults.happens("slow deletion")
        self._cloud.later("slow deletion" if slow else "deletion", action)

    def _is(self, node: Node, state: str) -> bool:
        return self.nodes.get(node.name) is node and node.state == state

    def _node(self, call: Call) -> Node:
        zone, name = self._cloud.zone(call), call.name.rpartition("@")[2]
        node = self.nodes.get(name)
        if node is None or node.zone != zone:
            raise Refusal(absent("nodes", zone, name))
        return node

    def _list_nodes(self, call: Call) -> Any:
        zone = self._cloud.zone(call)
        return [self._describe(n) for n in self.nodes.values() if zone in (n.zone, "-")]

    def _describe(self, node: Node) -> dict[str, Any]:
        queued: dict[str, Any] = {}
        if node.request:
            queued["queuedResource"] = full("queuedResources", node.zone, node.request.name)
            if len(node.request.nodes) > 1:
                queued["multisliceNode"] = True
        return {
            "name": full("nodes", node.zone, node.name),
            "state": node.state,
            "health": "HEALTHY" if node.state == "READY" else "TIMEOUT",
            "createTime": stamp(node.created),
            "apiVersion": "V2",
            "networkEndpoints": [
                {"ipAddress": ip, "port": 8470, "accessConfig": {"externalIp": ip}}
                for ip in node.addresses
            ],
            **node.spec,
            **queued,
        }

    # Queued resources

    def _create_request(self, call: Call) -> Any:
        cloud, zone = self._cloud, self._cloud.zone(call)
        check_name(call.name)
        if call.name in self.requests:
            raise Refusal(exists("queuedResources", zone, call.name))
        version = call.need("runtime-version")
        nodes = [self._new_node(call, name, zone, version) for name in node_names(call)]
        cloud.charge_quota(sum(node.shape.chips for node in nodes))
        request = Request(call.name, zone, nodes, cloud.clock.now(), nodes[0].spot)
        for index, node in enumerate(nodes):
            node.request, node.index = request, index
        self.requests[request.name] = request
        if "valid-after-duration" in call.flags and "valid-until-duration" in call.flags:
            # gcloud 528 sends the interval only where both its ends are given.
            expires = cloud.clock.now() + seconds(call.flags["valid-until-duration"])
            cloud.clock.at(expires, lambda: self._expire(request))
        cloud.later(
            "stock-out" if cloud.faults.happens("stock-out") else "queue",
            lambda: self._provision(request),
        )
        return describe(request)

    def _provision(self, request: Request) -> None:
        if self.requests.get(request.name) is not request:
            return
        if request.state != "WAITING_FOR_RESOURCES":
            return
        taken = next((node for node in request.nodes if node.name in self.nodes), None)
        if taken:
            self._fail(request, f"Resource '{taken.name}' already exists")
            return
        request.state = "PROVISIONING"
        for node in request.nodes:
            node.created = self._cloud.clock.now()
            self.nodes[node.name] = node
        if self._cloud.faults.happens("failed request"):
            self._cloud.later("creation", lambda: self._fail(request, "an internal error"))
            return
        for node in request.nodes:
            self._begin(node)

    def _expire(self, request: Request) -> None:
        if request.state == "WAITING_FOR_RESOURCES":
            self._fail(request, "The request's valid interval has expired")

    def _fail(self, request: Request, error: str) -> None:
        if request.state in ("WAITING_FOR_RESOURCES", "PROVISIONING"):
            request.state, request.error = "FAILED", error
            self._clear(request)

    def _suspend(self, request: Request, initiator: str) -> None:
        request.state, request.initiator = "SUSPENDING", initiator
        self._cloud.later("suspension", lambda: self._suspended(request))

    def _suspended(self, request: Request) -> None:
        if request.state == "SUSPENDING":
            request.state = "SUSPENDED"
            self._clear(request)

    def _clear(self, request: Request) -> None:
        for node in request.nodes:
            self._remove(node)

    def _delete_request(self, call: Call) -> Any:
        request = self._request(call)
        alone = not any(self.nodes.get(node.name) is node for node in request.nodes)
        if "force" not in call.flags and not alone:
            raise Refusal(
                f"FAILED_PRECONDITION: QueuedResource in state {request.state} cannot be deleted; "
                "it must be ACCEPTED, FAILED, SUSPENDED or WAITING_FOR_RESOURCES, or its nodes "
                "must be deleted first, or force must be set"
            )
        if request.state != "DELETING":
            request.state = "DELETING"
            for node in request.nodes:
                if self.nodes.get(node.name) is node:
                    node.state = "DELETING"
            self._in_a_while(lambda: self._forget(request))
        return self._cloud.finish(call, lambda: self.requests.get(request.name) is request)

    def _forget(self, request: Request) -> None:
        self._clear(request)
        if self.requests.get(request.name) is request:
            del self.requests[request.name]

    def _request(self, call: Call) -> Request:
        zone, name = self._cloud.zone(call), call.name.rpartition("@")[2]
        request = self.requests.get(name)
        if request is None or request.zone != zone:
            raise Refusal(absent("queuedResources", zone, name))
        return request

    def _list_requests(self, call: Call) -> Any:
        zone = self._cloud.zone(call)
        return [describe(r) for r in self.requests.values() if zone in (r.zone, "-")]

    # SSH

    def _ssh_node(self, call: Call) -> Steps:
        return self._cloud.ssh.run(call, self._reachable(self._node(call), call))

    def _scp_node(self, call: Call) -> Steps:
        source, target, name = ends(call)
        call.words.insert(0, name)
        return self._cloud.ssh.copy(call, self._reachable(self._node(call), call), source, target)

    def _ssh_request(self, call: Call) -> Steps:
        call.need("command")
        vms, warning = self._reachable_of_request(call)
        done = yield from self._cloud.ssh.run(call, vms)
        return done._replace(stderr=warning + done.stderr)

    def _scp_request(self, call: Call) -> Steps:
        source, target, name = ends(call)
        call.words.insert(0, name)
        vms, warning = self._reachable_of_request(call)
        done = yield from self._cloud.ssh.copy(call, vms, source, target)
        return done._replace(stderr=warning + done.stderr)

    def _reachable_of_request(self, call: Call) -> tuple[list[Vm], str]:
        """A node that cannot be reached is left out, with a warning and exit code 0."""
        request, vms, warning = self._request(call), list[Vm](), ""
        for index in indexes(call.flags.get("node", "0"), "node", len(request.nodes)):
            try:
                node = request.nodes[index]
                if self.nodes.get(node.name) is not node:
                    raise Refusal(absent("nodes", node.zone, node.name))
                vms += self._reachable(node, call)
            except Refusal as refusal:
                warning = (
                    f"{refusal}\nWARNING: Could not prepare all {len(request.nodes)} nodes, "
                    "attempting to ssh into the rest.\n"
                )
        return vms, warning

    def _reachable(self, node: Node, call: Call) -> list[Vm]:
        if node.state in ("PREEMPTED", "TERMINATED"):
            raise Refusal(
                f'This TPU has terminal state "{node.state}", so it cannot be used anymore.'
            )
        if node.state == "DELETING":
            raise Refusal('This TPU has state "DELETING", so it cannot be currently connected to.')
        return [
            node.vms[i] for i in indexes(call.flags.get("worker", "0"), "worker", len(node.vms))
        ]


def describe(request: Request) -> dict[str, Any]:
    """A queued resource as the API gives it."""
    state: dict[str, Any] = {"state": request.state}
    if request.initiator:
        state["stateInitiator"] = request.initiator
    if request.error:
        state["failedData"] = {"error": {"code": 8, "message": request.error}}
    parent = f"projects/{PROJECT}/locations/{request.zone}"
    specs = [{"parent": parent, "nodeId": node.name, "node": node.spec} for node in request.nodes]
    if len(request.nodes) > 1 and request.state == "WAITING_FOR_RESOURCES":
        prefix = request.nodes[0].name.rpartition("-")[0]
        slices = {"nodeCount": len(request.nodes), "nodeIdPrefix": prefix}
        specs = [{"parent": parent, "multisliceParams": slices, "node": request.nodes[0].spec}]
    return {
        "name": full("queuedResources", request.zone, request.name),
        "createTime": stamp(request.created),
        "state": state,
        "tpu": {"nodeSpec": specs},
        **({"spot": {}} if request.spot else {}),
    }


def node_names(call: Call) -> list[str]:
    """Of the nodes that a request asks for."""
    if "node-id" in call.flags:
        return [call.flags["node-id"]]
    count = int(call.need("node-count"))
    if count <= 1:
        raise Refusal("Invalid value for [--node-count]: Node count must be greater than 1")
    prefix = call.flags.get("node-prefix", call.name)
    return [f"{prefix}-{index}" for index in range(count)]


def ends(call: Call) -> tuple[str, str, str]:
    """Source and target of a scp, and the name before the colon."""
    if len(call.words) != 2:
        raise Refusal("argument DEST: Must be specified.", 2)
    source, target = call.words
    remote = target if ":" in target else source
    return source, target, remote.partition(":")[0].rpartition("@")[2]


def seconds(duration: str) -> float:
    """Of a duration such as 6h, 30m or 3600s."""
    parts = re.findall(r"([\d.]+)([dhms])", duration)
    return sum(float(n) * {"d": 86400, "h": 3600, "m": 60, "s": 1}[unit] for n, unit in parts)


def check_name(name: str) -> None:
    """Refuses what cannot be a name."""
    if not re.fullmatch(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?", name):
        raise Refusal(f"INVALID_ARGUMENT: Invalid resource id '{name}'")


def full(kind: str, zone: str, name: str) -> str:
    """A resource's full name."""
    return f"projects/{PROJECT}/locations/{zone}/{kind}/{name}"


def absent(kind: str, zone: str, name: str) -> str:
    """What the API says of what is not there."""
    return f"NOT_FOUND: Resource '{full(kind, zone, name)}' was not found"


def exists(kind: str, zone: str, name: str) -> str:
    """What the API says of a name that is taken."""
    return f"ALREADY_EXISTS: Resource '{full(kind, zone, name)}' already exists"


def stamp(time: float) -> str:
    """A time as the API writes it."""
    return datetime.fromtimestamp(time, UTC).isoformat().replace("+00:00", "Z")
