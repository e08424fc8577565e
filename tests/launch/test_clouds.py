"""The state of a launch from the resources of the two cloud APIs."""

import dataclasses
import json

import pytest

from launch.cloud import Resources, State
from launch.cloud_tpu import CloudTPU
from launch.compute_engine import ComputeEngine
from launch.gcloud import Completed, GcloudError, Kind, LocalHost
from launch.plan import Plan
from research.common.errors import UserError
from tests.launch.twin.tpu_api import absent, full

ZONE = "us-central2-b"
ONE = Plan("run", "p", ZONE, "v4-16")
TWO = dataclasses.replace(ONE, slices=2)
DIRECT = dataclasses.replace(ONE, queued=False)
GROUP = Plan("run", "p", "us-central1-c", "tpu7x-16")  # two machines
GONE = "ERROR: (gcloud.compute) Could not fetch resource:\n - The resource 'run' was not found\n"


class Cloud(LocalHost):
    """Answers those commands that begin with the words that were written down."""

    def __init__(self, **answers):
        self._answers = {words.replace("_", " "): answer for words, answer in answers.items()}

    def run(self, argv, timeout=300.0):
        line = " ".join(argv).replace("-", " ")
        answer = next(self._answers[words] for words in self._answers if f" {words} " in line)
        if isinstance(answer, str):
            return Completed(1, "", answer)
        return Completed(0, json.dumps(answer), "")

    def sleep(self, seconds):
        pass


def request(state, error=""):
    """A queued resource in that state."""
    failed = {"failedData": {"error": {"code": 8, "message": error}}} if error else {}
    return {"name": full("queuedResources", ZONE, "run"), "state": {"state": state, **failed}}


def look(plan, queued=None, **nodes):
    """What is seen of a request, if there is one, and of nodes in these states."""
    found = absent("queuedResources", ZONE, "run") if queued is None else queued
    listed = [
        {"name": full("nodes", ZONE, name.replace("_", "-")), **({"state": state} if state else {})}
        for name, state in nodes.items()
    ]
    return CloudTPU(plan).describe(Cloud(queued_resources_describe=found, tpu_vm_list=listed))


@pytest.mark.parametrize(
    ("word", "state"),
    [
        ("CREATING", State.CREATING),
        ("ACCEPTED", State.WAITING),
        ("WAITING_FOR_RESOURCES", State.WAITING),
        ("PROVISIONING", State.CREATING),
        ("FAILED", State.FAILED),
        ("SUSPENDING", State.LOST),
        ("SUSPENDED", State.LOST),
        ("DELETING", State.DELETING),
        ("A_WORD_OF_TOMORROW", State.CREATING),
    ],
)
def test_the_state_is_that_of_the_request_until_it_is_active(word, state):
    assert look(ONE, request(word)) == Resources(state, f"request {word}")
    assert look(ONE, request(word), run="READY").state is state
    assert look(TWO, request(word), run_0="PREEMPTED", run_1="DELETING").state is state


def test_a_request_that_was_just_made_has_no_state():
    nothing = {"name": full("queuedResources", ZONE, "run")}
    assert look(ONE, nothing) == Resources(State.CREATING, "request UNKNOWN")


def test_a_failed_request_reports_the_cause():
    found = look(ONE, request("FAILED", "no quota"), run="CREATING")
    assert found == Resources(State.FAILED, "request FAILED (no quota), run CREATING")


NODES = [
    ("READY", State.READY),
    ("CREATING", State.CREATING),
    ("RESTARTING", State.CREATING),
    ("REIMAGING", State.CREATING),
    ("REPAIRING", State.CREATING),
    ("STARTING", State.CREATING),
    ("UNHIDING", State.CREATING),
    ("DELETING", State.DELETING),
    ("PREEMPTED", State.LOST),
    ("TERMINATED", State.LOST),
    ("STOPPING", State.LOST),
    ("STOPPED", State.LOST),
    ("HIDING", State.LOST),
    ("HIDDEN", State.LOST),
]


@pytest.mark.parametrize(("word", "state"), NODES)
def test_the_state_of_an_active_request_is_that_of_its_node(word, state):
    found = look(ONE, request("ACTIVE"), run=word)
    assert found == Resources(state, f"request ACTIVE, run {word}")


@pytest.mark.parametrize(("word", "state"), NODES)
def test_a_direct_node_has_its_own_state(word, state):
    assert look(DIRECT, request("FAILED"), run=word) == Resources(state, f"run {word}")


@pytest.mark.parametrize(
    ("first", "second", "state"),
    [
        ("READY", "READY", State.READY),
        ("READY", "CREATING", State.CREATING),
        ("REPAIRING", "READY", State.CREATING),
        ("CREATING", "DELETING", State.DELETING),
        ("DELETING", "READY", State.DELETING),
        ("DELETING", "DELETING", State.DELETING),
        ("READY", "PREEMPTED", State.LOST),
        ("TERMINATED", "CREATING", State.LOST),
        ("DELETING", "PREEMPTED", State.LOST),
    ],
)
def test_the_state_of_several_nodes_is_the_worst(first, second, state):
    found = look(TWO, request("ACTIVE"), run_1=second, run_0=first)
    assert found == Resources(state, f"request ACTIVE, run-0 {first}, run-1 {second}")


def test_a_node_that_is_missing_is_being_replaced():
    assert look(TWO, request("ACTIVE"), run_1="READY").state is State.CREATING
    assert look(TWO, request("ACTIVE"), run_1="PREEMPTED").state is State.LOST
    assert look(TWO, request("ACTIVE"), run_1="DELETING").state is State.DELETING
    assert look(ONE, request("ACTIVE")).state is State.CREATING


def test_nodes_that_outlived_their_request():
    assert look(ONE, run="READY") == Resources(State.LOST, "run READY")
    assert look(TWO, run_0="READY", run_1="DELETING").state is State.LOST
    assert look(TWO, run_0="DELETING", run_1="DELETING").state is State.DELETING
    assert look(TWO, run_1="DELETING") == Resources(State.DELETING, "run-1 DELETING")


@pytest.mark.parametrize("plan", [ONE, TWO, DIRECT], ids=["one", "two", "direct"])
def test_no_resources_are_absent(plan):
    assert look(plan) == Resources(State.ABSENT)


def test_nodes_of_others_do_not_count():
    others = {"run_2": "READY", "run_a": "READY", "other": "PREEMPTED"}
    assert look(ONE, **others, run_0="READY") == Resources(State.ABSENT)
    assert look(TWO, **others, run="READY") == Resources(State.ABSENT)
    found = look(TWO, request("ACTIVE"), **others, run_0="READY", run_1="READY")
    assert found == Resources(State.READY, "request ACTIVE, run-0 READY, run-1 READY")


@pytest.mark.parametrize("broken", ["queued_resources_describe", "tpu_vm_list"])
def test_an_unreachable_cloud_is_not_absent(broken):
    answers = {"queued_resources_describe": request("ACTIVE"), "tpu_vm_list": []}
    with pytest.raises(GcloudError) as error:
        CloudTPU(ONE).describe(Cloud(**answers | {broken: "ERROR: UNAVAILABLE: later"}))
    assert error.value.kind is Kind.TRANSIENT


def machine(letter, status=None, error=""):
    """A machine of the group, as it is listed."""
    listed = {"name": f"run-{letter}", "currentAction": "NONE"}
    if status:
        listed["instanceStatus"] = status
    if error:
        errors = [{"code": error, "message": "none left"}]
        listed["lastAttempt"] = {"errors": {"errors": errors}}
    return listed


def look_at_group(*machines, stable=False, deleting=0):
    """What is seen of a group with these machines."""
    group = {
        "name": "run",
        "status": {"isStable": stable},
        "currentActions": {"deleting": deleting},
    }
    return ComputeEngine(GROUP).describe(
        Cloud(managed_describe=group, managed_list_instances=list(machines))
    )


@pytest.mark.parametrize("word", ["PENDING", "PROVISIONING", "STAGING", "REPAIRING", None])
def test_machines_that_are_being_created(word):
    found = look_at_group(machine("b", word), machine("a", "RUNNING"))
    assert found.state is State.CREATING
    assert found.detail == f"run-b {word}, run-a RUNNING"
    assert look_at_group(machine("a", word), machine("b", word)).state is State.CREATING


def test_a_group_that_was_just_made_has_no_machines():
    assert look_at_group() == Resources(State.CREATING)


@pytest.mark.parametrize("stable", [True, False])
def test_all_machines_run(stable):
    found = look_at_group(machine("b", "RUNNING"), machine("a", "RUNNING"), stable=stable)
    detail = "run-b RUNNING, run-a RUNNING"
    assert found == Resources(State.READY, detail, ("run-a", "run-b"))


@pytest.mark.parametrize("other", [None, "RUNNING", "STAGING"])
def test_a_machine_that_failed_to_start_reports_the_cause(other):
    found = look_at_group(machine("a", other), machine("b", error="ZONE_RESOURCE_POOL_EXHAUSTED"))
    assert found.state is State.FAILED
    assert found.detail.endswith("run-b ZONE_RESOURCE_POOL_EXHAUSTED: none left")


@pytest.mark.parametrize("word", ["STOPPING", "STOPPED", "TERMINATED", "SUSPENDED"])
@pytest.mark.parametrize("stable", [True, False])
def test_a_preempted_machine(word, stable):
    found = look_at_group(machine("a", "RUNNING"), machine("b", word), stable=stable)
    assert found.state is State.LOST


def test_a_group_at_rest_with_fewer_machines_than_it_had():
    assert look_at_group(machine("a", "RUNNING"), stable=True).state is State.LOST
    assert look_at_group(stable=True).state is State.LOST


def test_a_group_that_is_being_deleted():
    for machines in ((), (machine("a", "RUNNING"), machine("b", "RUNNING"))):
        assert look_at_group(*machines, deleting=2).state is State.DELETING
    failed = machine("a", error="ZONE_RESOURCE_POOL_EXHAUSTED")
    assert look_at_group(failed, deleting=1).state is State.DELETING


@pytest.mark.parametrize(
    ("template", "policy", "found"),
    [
        (GONE, GONE, Resources(State.ABSENT)),
        ({"name": "run"}, GONE, Resources(State.REMAINS, "without a group: instance-templates")),
        (GONE, {"name": "run"}, Resources(State.REMAINS, "without a group: resource-policies")),
        (
            {"name": "run"},
            {"name": "run"},
            Resources(State.REMAINS, "without a group: instance-templates, resource-policies"),
        ),
    ],
    ids=["nothing", "template", "policy", "both"],
)
def test_what_is_left_without_a_group(template, policy, found):
    cloud = Cloud(
        managed_describe=GONE,
        instance_templates_describe=template,
        resource_policies_describe=policy,
    )
    assert ComputeEngine(GROUP).describe(cloud) == found


@pytest.mark.parametrize("broken", ["managed_describe", "managed_list_instances"])
def test_a_group_that_cannot_be_asked_is_not_an_absent_one(broken):
    answers = {"managed_describe": {"name": "run"}, "managed_list_instances": []}
    with pytest.raises(GcloudError) as error:
        ComputeEngine(GROUP).describe(Cloud(**answers | {broken: "ERROR: HTTPError 503: later"}))
    assert error.value.kind is Kind.TRANSIENT


@pytest.mark.parametrize(
    ("way", "plan", "says"),
    [
        (CloudTPU, dataclasses.replace(ONE, capacity="flex-start"), "--flex-start"),
        (ComputeEngine, TWO, "--slices=1"),
        (ComputeEngine, dataclasses.replace(GROUP, capacity="reserved"), "--spot"),
    ],
    ids=["flex-start", "slices", "reserved"],
)
def test_an_unsupported_plan_is_an_error(way, plan, says):
    with pytest.raises(UserError, match=says):
        way(plan)
