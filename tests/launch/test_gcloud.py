"""Classification of gcloud's errors, retries and timeouts."""

import os
import sys
import time

import pytest

from launch.gcloud import (
    PAUSE_SECONDS,
    Completed,
    GcloudError,
    Kind,
    LocalHost,
    call,
    call_json,
    classify_error,
    describe_resource,
)
from tests.launch.twin.cloud import NOT_LOGGED_IN, given_up
from tests.launch.twin.tpu_api import CAPACITY, absent, exists

TPU = "ERROR: (gcloud.compute.tpus.tpu-vm.create)"
GROUP = "ERROR: (gcloud.compute.instance-groups.managed.describe) Could not fetch resource:\n - "
SAID = [
    # The same code, 8, for both: only the words tell them apart.
    (Kind.CAPACITY, f'{TPU} {{\n  "code": 8,\n  "message": "{CAPACITY.format("us-east5-b")}"\n}}'),
    (
        Kind.QUOTA,
        f'{TPU} {{\n  "code": 8,\n  "message": "Quota limit '
        "'TPUV6EPreemptiblePerProjectPerRegionForTPUAPI' has been exceeded. Limit: 0 in region "
        'us-east5."\n}',
    ),
    (Kind.QUOTA, f"{TPU} RESOURCE_EXHAUSTED: Quota limit 'TPUV5s' has been exceeded. Limit: 8"),
    (Kind.QUOTA, f"{GROUP}Quota 'CPUS_ALL_REGIONS' exceeded.  Limit: 0.0 globally."),
    (
        Kind.CAPACITY,
        "Insufficient reserved capacity. Contact customer support to increase your reservation. "
        "[EID: 0x1]",
    ),
    (Kind.CAPACITY, "run-x1b2 ZONE_RESOURCE_POOL_EXHAUSTED: None"),
    (Kind.CAPACITY, "ZONE_RESOURCE_POOL_EXHAUSTED: The zone does not have enough resources"),
    (
        Kind.DENIED,
        f"{TPU} PERMISSION_DENIED: Permission denied on 'locations/us-central2-b' (or it may not "
        "exist). This command is authenticated as me@example.com which is the active account",
    ),
    (
        Kind.DENIED,
        f"{TPU} PERMISSION_DENIED: Permission 'tpu.nodes.create' denied on resource "
        "'//tpu.googleapis.com/projects/p/locations/us-east5-b' (or it may not exist).",
    ),
    (
        Kind.DENIED,
        "ERROR: HTTPError 403: me@example.com does not have storage.objects.create access to the "
        "Google Cloud Storage object.",
    ),
    (
        Kind.DISABLED,
        f"{TPU} PERMISSION_DENIED: Cloud TPU API has not been used in project 123 before or it is "
        "disabled. Enable it by visiting https://console.developers.google.com/apis/api/tpu."
        "googleapis.com/overview?project=123 then retry.",
    ),
    (
        Kind.DISABLED,
        "API [tpu.googleapis.com] not enabled on project [p]. Would you like to enable and retry "
        "(this will take a few minutes)? (y/N)?",
    ),
    (Kind.ABSENT, f"{TPU} {absent('queuedResources', 'us-east5-b', 'run')}"),
    (Kind.ABSENT, f"{GROUP}The resource 'projects/p/zones/z/instances/n' was not found"),
    (Kind.ABSENT, "ERROR: The following URLs matched no objects or files:\ngs://bucket/run"),
    (Kind.ABSENT, "ERROR: (gcloud.storage.buckets.describe) gs://bucket not found: 404."),
    (Kind.TAKEN, f"{TPU} {exists('nodes', 'us-east5-b', 'run')}"),
    (Kind.TAKEN, f"{GROUP}The resource 'projects/p/regions/r/resourcePolicies/n' already exists"),
    (Kind.LOGIN, f"{TPU} {NOT_LOGGED_IN}"),
    (
        Kind.LOGIN,
        f"{TPU} There was a problem refreshing your current auth tokens: Reauthentication failed. "
        "cannot prompt during non-interactive execution.\nPlease run:\n\n  $ gcloud auth login\n",
    ),
    (Kind.TRANSIENT, f"{TPU} UNAVAILABLE: The service is currently unavailable."),
    (
        Kind.TRANSIENT,
        "ERROR: gcloud crashed (ConnectionError): ('Connection aborted.', "
        "ConnectionResetError(104, 'Connection reset by peer'))",
    ),
    (Kind.TRANSIENT, "ERROR: HTTPError 503: We encountered an internal error. Please try again."),
    (Kind.TRANSIENT, "ssh: connect to host 34.1.2.3 port 22: Connection timed out"),
    (Kind.TRANSIENT, "ssh: Could not resolve hostname: resolve host"),
    (Kind.TRANSIENT, "INTERNAL_ERROR: None"),
    (Kind.TRANSIENT, given_up(300.0).stderr),
    (Kind.USAGE, f"{TPU} unrecognized arguments: --foo (did you mean '--zone'?)"),
    (
        Kind.USAGE,
        f"{TPU} INVALID_ARGUMENT: Cloud TPU received a bad request. the runtime version x is not "
        "for v6e [EID: 0x2]",
    ),
    (
        Kind.USAGE,
        f"{TPU} FAILED_PRECONDITION: QueuedResource in state ACTIVE cannot be deleted; it must be "
        "FAILED, or its nodes must be deleted first, or force must be set",
    ),
    (Kind.USAGE, "Invalid value for field 'resource.workloadPolicy': The URL is malformed."),
    (Kind.OTHER, f'{TPU} This TPU has terminal state "PREEMPTED", so it cannot be used anymore.'),
    (Kind.OTHER, "ERROR: (gcloud.x) [/usr/bin/ssh] exited with return code [255]."),
    (Kind.OTHER, ""),
]
NODE = ["gcloud", "compute", "tpus", "tpu-vm", "describe", "run", "--zone=us-east5-b"]
UNAVAILABLE = Completed(1, "", f"{TPU} UNAVAILABLE: The service is currently unavailable.\n")
DENIED = Completed(1, "", f"{TPU} PERMISSION_DENIED: Permission denied.\n")
ABSENT = Completed(1, "", f"{TPU} {absent('nodes', 'us-east5-b', 'run')}\n")


class Answers(LocalHost):
    """Commands leave what was written down, one after the other."""

    def __init__(self, *left):
        self._left, self.ran, self.slept = list(left), [], []

    def run(self, argv, timeout=300.0):
        self.ran.append(argv)
        return self._left.pop(0)

    def sleep(self, seconds):
        self.slept.append(seconds)


@pytest.mark.parametrize(("kind", "says"), SAID, ids=[kind.name for kind, _ in SAID])
def test_errors_are_classified_by_their_message(kind, says):
    assert classify_error(says) is kind


def test_the_message_starts_at_the_word_error():
    stderr = f"WARNING: old\n##### on worker 2\n{TPU} NOT_FOUND: no node was not found\nhelp\n"
    error = GcloudError(NODE, Completed(1, "", stderr))
    assert error.message == f"{TPU} NOT_FOUND: no node was not found help"
    assert str(error) == f"gcloud compute tpus tpu-vm describe: {error.message}"
    assert error.kind is Kind.ABSENT and error.argv == NODE


@pytest.mark.parametrize(
    ("stderr", "says"), [("one\n\ntwo\n\n", "one two"), ("", "exit code 3")], ids=["words", "none"]
)
def test_a_failure_without_the_word_error_has_a_message(stderr, says):
    assert GcloudError(NODE, Completed(3, "", stderr)).message == says


def test_transient_errors_are_retried():
    local_host = Answers(UNAVAILABLE, UNAVAILABLE, Completed(0, "done", ""))
    assert call(local_host, NODE, tries=3) == "done"
    assert local_host.ran == [NODE] * 3
    assert local_host.slept == [PAUSE_SECONDS] * 2


def test_the_number_of_tries_is_limited():
    local_host = Answers(*[UNAVAILABLE] * 9)
    with pytest.raises(GcloudError) as error:
        call(local_host, NODE, tries=3)
    assert error.value.kind is Kind.TRANSIENT
    assert len(local_host.ran) == 3


def test_a_command_is_run_once_unless_it_may_be_repeated():
    local_host = Answers(*[UNAVAILABLE] * 9)
    with pytest.raises(GcloudError):
        call(local_host, NODE)
    assert len(local_host.ran) == 1 and local_host.slept == []


def test_permanent_errors_are_not_retried():
    local_host = Answers(UNAVAILABLE, DENIED, Completed(0, "done", ""))
    with pytest.raises(GcloudError) as error:
        call(local_host, NODE, tries=5)
    assert error.value.kind is Kind.DENIED
    assert len(local_host.ran) == 2


def test_a_warning_on_the_way_is_no_failure():
    local_host = Answers(Completed(0, "[]", "WARNING: UNAVAILABLE, and then it was there\n"))
    assert call(local_host, NODE, tries=3) == "[]"
    assert len(local_host.ran) == 1


def test_json_is_requested_and_decoded():
    local_host = Answers(UNAVAILABLE, Completed(0, '{"state": "READY"}\n', ""))
    assert call_json(local_host, NODE) == {"state": "READY"}
    assert local_host.ran[0] == [*NODE, "--format=json"]


@pytest.mark.parametrize("printed", ["", '[{"name": "a"}, {"na', "null null"])
def test_json_that_is_cut_off_counts_as_a_broken_connection(printed):
    with pytest.raises(GcloudError) as error:
        call_json(Answers(Completed(0, printed, "")), NODE)
    assert error.value.kind is Kind.TRANSIENT
    assert error.value.message == "the connection broke off"


def test_a_missing_resource_is_none():
    assert describe_resource(Answers(ABSENT), NODE) is None
    assert describe_resource(Answers(Completed(0, "{}", "")), NODE) == {}


def test_an_error_is_not_a_missing_resource():
    for trouble in (DENIED, UNAVAILABLE, Completed(0, '{"sta', "")):
        with pytest.raises(GcloudError):
            describe_resource(Answers(*[trouble] * 3), NODE)


def test_a_command_is_killed_after_its_timeout():
    began = time.monotonic()
    done = LocalHost().run([sys.executable, "-c", "import time; time.sleep(60)"], timeout=0.2)
    assert time.monotonic() - began < 10
    assert done.returncode == 124 and done.stderr == "timed out after 0 s"
    assert classify_error(done.stderr) is Kind.TRANSIENT


def test_a_command_returns_its_output_and_exit_code():
    done = LocalHost().run(["sh", "-c", r"printf 'a\377'; echo b >&2; exit 3"])
    assert done == Completed(3, "a\N{REPLACEMENT CHARACTER}", "b\n")


def test_commands_run_in_parallel_and_return_in_order(tmp_path):
    """The first one waits for what the second one says."""
    os.mkfifo(tmp_path / "pipe")
    listen = ["cat", str(tmp_path / "pipe")]
    speak = ["sh", "-c", 'echo heard > "$1"; echo said; exit 7', "sh", str(tmp_path / "pipe")]
    first, second = LocalHost().run_parallel([listen, speak], timeout=5)
    assert first == Completed(0, "heard\n", "")
    assert second == Completed(7, "said\n", "")
