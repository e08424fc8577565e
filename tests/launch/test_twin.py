"""The twin keeps the cloud's rules: its states, its refusals, its bill, and what is lost with a
machine."""

import dataclasses
import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from launch.plan import Plan
from launch.workers import begin_command
from tests.launch.twin.command import Completed, Vm
from tests.launch.twin.daemon import Twin, quick
from tests.launch.twin.faults import DELAYS, Faults
from tests.launch.twin.simulation import World

ZONE = "--zone=us-central1-a"
TPU7X = "--zone=us-central1-c"
QUEUED = "compute tpus queued-resources"
NODE = "compute tpus tpu-vm"
GROUPS = "compute instance-groups managed"
SLICE = "--accelerator-type=v5litepod-16 --spot"
VERSION = "v2-alpha-tpuv5-lite"
REQUEST = f"{QUEUED} create a {ZONE} --node-id=a {SLICE} --runtime-version={VERSION}"
OTHER = REQUEST.replace(" a ", " b ").replace("id=a", "id=b")
TWO = f"{QUEUED} create a {ZONE} --node-count=2 {SLICE} --runtime-version={VERSION}"
DIRECT = f"{NODE} create a {ZONE} {SLICE} --version={VERSION}"
DELETE = f"{QUEUED} delete a {ZONE} --force"
WORKDIR = "gs://bucket/run"
PLAN = Plan("a", "twin", "us-central1-a", "v5litepod-16", workdir=WORKDIR, arguments=("x",))
# Everything takes ten seconds, and a command none.
EVEN: dict[str, float | tuple[float, float]] = dict.fromkeys(DELAYS, 10.0)
EVEN |= {"latency": 0.0, "ssh": 0.0}


def world(*kinds: str, **delays: float) -> World:
    named = {name.replace("_", " "): seconds for name, seconds in delays.items()}
    return World(Faults(kinds, delays=EVEN | named))


def call(world: World, line: str, *more: str) -> Completed:
    return world.cloud.gcloud(["gcloud", *line.split(), *more])


def done(world: World, line: str, *more: str) -> Any:
    completed = call(world, f"{line} --format=json", *more)
    assert completed.returncode == 0, completed.stderr
    return json.loads(completed.stdout) if completed.stdout else None


def plan(folder: Path, hours: float = 10.0, lease: float = 900.0) -> str:
    """The flag that gives machines a plan; they delete themselves by the request `a`."""
    delete = [["gcloud", *DELETE.split(), "--quiet", "--async"]]
    timed = dataclasses.replace(PLAN, max_hours=hours, lease_minutes=lease / 60)
    (folder / "plan").write_text(timed.metadata(delete, begin=""))
    return f"--metadata-from-file=polymath={folder / 'plan'}"


def request_state(world: World) -> str:
    return str(done(world, f"{QUEUED} describe a {ZONE}")["state"]["state"])


def node_states(world: World) -> list[str]:
    return [node["state"] for node in done(world, f"{NODE} list {ZONE}")]


def ssh(world: World, command: str, node: str = "a", worker: str = "all") -> Completed:
    return call(world, f"{NODE} ssh {node} {ZONE} --worker={worker}", f"--command={command}")


def training(world: World, folder: Path, line: str = REQUEST) -> None:
    """A training on all workers of the request `a`."""
    world.objects.write("bucket", "run/launch/code.tar.gz", b"code")
    done(world, line, plan(folder))
    world.clock.sleep(60)
    for node in done(world, f"{NODE} list {ZONE}"):
        name = node["name"].rpartition("/")[2]
        assert ssh(world, begin_command(PLAN), name).returncode == 0
    world.clock.sleep(10)


def replies(world: World) -> list[Any]:
    lines = ssh(world, "python3 agent.py poll --offsets='{}'").stdout.splitlines()
    return [json.loads(line) for line in lines if line.startswith("{")]


class TestQueuedResources:
    def test_passes_through_the_states(self):
        w = world()
        assert done(w, REQUEST)["state"]["state"] == "WAITING_FOR_RESOURCES"
        assert node_states(w) == []
        w.clock.sleep(11)
        assert (request_state(w), node_states(w)) == ("PROVISIONING", ["CREATING"])
        w.clock.sleep(10)
        assert (request_state(w), node_states(w)) == ("ACTIVE", ["READY"])
        assert len(done(w, f"{NODE} describe a {ZONE}")["networkEndpoints"]) == 4

    def test_is_deleted_with_force_only_while_there_are_nodes(self):
        w = world()
        done(w, REQUEST)
        w.clock.sleep(60)
        refused = call(w, f"{QUEUED} delete a {ZONE}")
        assert refused.returncode == 1 and "FAILED_PRECONDITION" in refused.stderr
        done(w, f"{DELETE} --async")
        assert (request_state(w), node_states(w)) == ("DELETING", ["DELETING"])
        w.clock.sleep(11)
        assert w.cloud.leaked() == [] and not w.machines.machines

    def test_delete_waits_without_async(self):
        w = world()
        done(w, REQUEST)
        done(w, DELETE)
        assert w.cloud.leaked() == []

    def test_what_is_suspended_eats_quota_until_it_is_deleted(self):
        w = world("preemption", preemption=40.0)
        w.cloud.quota = 16
        done(w, REQUEST)
        w.clock.sleep(51)
        assert (request_state(w), node_states(w)) == ("SUSPENDING", ["PREEMPTED"])
        w.clock.sleep(10)
        assert (request_state(w), node_states(w)) == ("SUSPENDED", [])
        assert w.cloud.leaked() == ["queued resource a SUSPENDED"]
        other = call(w, OTHER)
        assert other.returncode == 1 and "Quota limit" in other.stderr
        done(w, f"{QUEUED} delete a {ZONE}")
        assert w.cloud.leaked() == [] and call(w, REQUEST).returncode == 0

    def test_fails_and_expires(self):
        w = world("failed request")
        done(w, REQUEST)
        w.clock.sleep(21)
        assert (request_state(w), node_states(w)) == ("FAILED", [])
        late = world(queue=7200.0)
        done(late, f"{REQUEST} --valid-after-duration=0s --valid-until-duration=1h")
        late.clock.sleep(3601)
        assert request_state(late) == "FAILED"

    def test_an_end_without_a_start_does_not_count(self):
        w = world(queue=7200.0)
        done(w, f"{REQUEST} --valid-until-duration=1h")
        w.clock.sleep(3601)
        assert request_state(w) == "WAITING_FOR_RESOURCES"

    def test_several_nodes_find_each_other(self, tmp_path):
        w = world()
        done(w, TWO, plan(tmp_path))
        w.clock.sleep(60)
        machines = w.machines.machines
        assert sorted(machine.rank for machine in machines.values()) == list(range(8))
        assert machines[Vm("a-1", 2)].rank == 6
        assert "MEGASCALE_SLICE_ID: '1'" in machines[Vm("a-1", 2)].metadata["tpu-env"]

    def test_a_repaired_slice_is_a_new_machine_and_the_request_stays_active(self, tmp_path):
        w = world("preemption", "repair", preemption=100.0)
        training(w, tmp_path, TWO)
        before = dict(w.machines.machines)
        w.clock.sleep(50)
        assert request_state(w) == "ACTIVE"
        fresh = {vm.node for vm, machine in w.machines.machines.items() if before[vm] != machine}
        assert fresh == {"a-0"} and not w.machines.machines[Vm("a-0", 0)].ready
        # A laptop that asks for all nodes is not told by the exit code.
        w.cloud.tpu.preempt(w.cloud.tpu.nodes["a-1"])
        line = f"{QUEUED} ssh a {ZONE} --node=all --worker=all"
        partly = call(w, line, "--command=true")
        assert partly.returncode == 0 and "Could not prepare all 2 nodes" in partly.stderr


class TestPreemption:
    @pytest.mark.parametrize("after", [5.0, 25.0])
    def test_may_strike_while_creating_or_later(self, after):
        w = world("preemption", preemption=after)
        done(w, f"{DIRECT} --async")
        w.clock.sleep(after + 1)
        assert node_states(w) == ["PREEMPTED"] and w.cloud.leaked() == ["node a PREEMPTED"]
        refused = ssh(w, "true")
        assert refused.returncode == 1 and 'terminal state "PREEMPTED"' in refused.stderr
        done(w, f"{NODE} delete a {ZONE}")
        assert w.cloud.leaked() == []

    def test_during_deletion_leaves_nothing(self):
        w = world("preemption", preemption=25.0, deletion=30.0)
        done(w, REQUEST)
        w.clock.sleep(25)
        done(w, DELETE)
        assert w.faults.struck == ["preemption"] and w.cloud.leaked() == []

    def test_a_training_goes_on_from_its_last_checkpoint(self, tmp_path):
        w = world()
        training(w, tmp_path)
        w.clock.sleep(45)
        assert [reply["step"] for reply in replies(w)] == [22] * 4
        w.cloud.tpu.preempt(w.cloud.tpu.nodes["a"])
        w.clock.sleep(20)
        done(w, DELETE)
        training(w, tmp_path)
        w.clock.sleep(400)
        assert w.runs[WORKDIR].resumed == [0, 20] and w.runs[WORKDIR].finished
        assert {reply["verdict"]["outcome"] for reply in replies(w)} == {"finished"}

    def test_a_reboot_keeps_the_disk_and_ends_the_training(self, tmp_path):
        w = world()
        training(w, tmp_path)
        born = w.machines.machines[Vm("a", 0)].born
        w.cloud.tpu.maintain(w.cloud.tpu.nodes["a"])
        w.clock.sleep(15)
        states = [reply["state"] for reply in replies(w)]
        assert sorted(states) == ["failed", "failed", "failed", "idle"]
        assert w.machines.machines[Vm("a", 0)].born == born and node_states(w) == ["READY"]


class TestDeadMan:
    def test_deletes_when_nobody_renews_the_lease(self, tmp_path):
        w = world()
        done(w, REQUEST, plan(tmp_path, lease=300.0))
        w.clock.sleep(30 + 300 + 30)  # the training may save, and a deletion takes its time
        assert w.cloud.leaked() == []

    def test_deletes_a_training_whose_hours_are_over(self, tmp_path):
        w = world()
        w.steps = 10**6
        training(w, tmp_path)
        done(w, DELETE)
        done(w, REQUEST, plan(tmp_path, hours=0.5, lease=300.0))
        for _ in range(29):
            w.clock.sleep(60)
            replies(w)
        assert w.cloud.leaked()
        w.clock.sleep(120)
        assert w.cloud.leaked() == []


class TestRefusals:
    @pytest.mark.parametrize(
        ("line", "code", "says"),
        [
            (f"{NODE} describe b {ZONE}", 1, "NOT_FOUND: Resource 'projects/twin/locations"),
            (REQUEST, 1, "ALREADY_EXISTS"),
            (f"{NODE} list --zone=europe", 1, "PERMISSION_DENIED: Permission denied on"),
            (OTHER.replace("v5litepod-16", "v4-16"), 1, "v4-16 was not found in zone"),
            (OTHER.replace("v5-lite", "6e"), 1, "the runtime version"),
            (f"{QUEUED} create c {ZONE}", 2, "--runtime-version: Must be specified"),
            (f"{NODE} list {ZONE} --force", 2, "unrecognized arguments: --force"),
            (f"{NODE} ssh a {ZONE} --tunnel-through-iap", 2, "unrecognized arguments"),
            (f"{NODE} ssh a {ZONE} --worker=9 --command=true", 1, "index 9 is larger"),
            (f"{NODE} ssh a {ZONE} --command=true --output-directory=/tmp", 1, "None/0.log"),
            (f"{GROUPS} describe a {TPU7X}", 1, "Could not fetch resource:"),
            ("storage ls gs://nobucket", 1, "404"),
            ("storage cat gs://bucket/none", 1, "matched no objects"),
            ("compute nonsense", 2, "Invalid choice"),
        ],
    )
    def test_have_the_real_ones_words_and_codes(self, line, code, says):
        w = world()
        done(w, REQUEST)
        w.clock.sleep(60)
        refused = call(w, line)
        assert refused.returncode == code and says in refused.stderr, refused
        assert refused.stderr.startswith("ERROR: (gcloud.") and not refused.stdout

    def test_of_the_account(self):
        w = world()
        w.cloud.account = None
        assert "gcloud auth login" in call(w, REQUEST).stderr
        assert call(w, "auth list --format=value(account)").stdout == ""
        w.cloud.account = "me"
        w.cloud.denied.add(f"{QUEUED} create")
        assert "PERMISSION_DENIED: Permission 'tpu" in call(w, REQUEST).stderr
        w.cloud.disabled.add("tpu")
        assert "has not been used in project" in call(w, REQUEST).stderr
        w.cloud.config["project"] = ""
        assert "[project] is not currently set" in call(w, REQUEST).stderr
        assert call(w, "config get project") == (0, "", "(unset)\n")
        assert w.cloud.leaked() == []

    def test_a_stock_out_refuses_a_node_and_lets_a_request_wait(self):
        w = world("stock-out")
        refused = call(w, DIRECT)
        assert refused.returncode == 1 and "no more capacity in the zone" in refused.stderr
        assert w.cloud.leaked() == []
        w = (
            world("stock-out", stock_out=1.0)
            if False
            else World(Faults(["stock-out"], delays=EVEN | {"stock-out": 500.0}))
        )
        done(w, REQUEST)
        w.clock.sleep(499)
        assert request_state(w) == "WAITING_FOR_RESOURCES"

    def test_a_lost_reply_was_carried_out_and_a_503_was_not(self):
        w = world("lost reply")
        assert call(w, REQUEST).returncode == 1 and w.cloud.leaked()
        w = world("unavailable")
        assert "UNAVAILABLE" in call(w, REQUEST).stderr and not w.cloud.leaked()


class TestSsh:
    def test_an_unreachable_worker_answers_255_until_it_is_back(self):
        w = world("ssh minute")
        done(w, REQUEST)
        w.clock.sleep(60)
        refused = ssh(w, "true", worker="2")
        assert refused.returncode == 255 and "return code [255]" in refused.stderr
        assert ssh(w, "true").returncode == 255
        w.clock.sleep(60)
        assert ssh(w, "true").returncode == 0

    def test_a_half_created_node_is_ready_and_never_answers(self):
        w = world("half node")
        done(w, REQUEST)
        w.clock.sleep(60)
        assert node_states(w) == ["READY"]
        codes = [ssh(w, "true", worker=str(worker)).returncode for worker in range(4)]
        assert sorted(codes) == [0, 0, 0, 255]
        done(w, DELETE)
        assert w.cloud.leaked() == []

    def test_a_machine_in_place_of_an_unreachable_one_is_reached(self):
        w = world("ssh forever")
        for code in (255, 0):
            done(w, REQUEST)
            w.clock.sleep(60)
            assert ssh(w, "true").returncode == code
            done(w, DELETE)

    def test_side_by_side_takes_the_time_of_one_and_gives_up_in_time(self):
        w = world(ssh=7.0)
        done(w, REQUEST)
        w.clock.sleep(60)
        began = w.clock.now()
        line = f"{NODE} ssh a {ZONE} --command=true --worker="
        commands = [["gcloud", *f"{line}{worker}".split()] for worker in range(4)]
        assert [one.returncode for one in w.cloud.at_once(commands)] == [0] * 4
        assert w.clock.now() - began == pytest.approx(7.0)
        assert w.cloud.at_once(commands, timeout=5.0)[3].returncode == 124
        assert w.cloud.gcloud(commands[0], timeout=5.0).returncode == 124


class TestComputeEngine:
    POLICY = "projects/twin/regions/us-central1/resourcePolicies/a"
    TEMPLATE = "compute instance-templates create a --machine-type=tpu7x-standard-4t"

    def create(self, w: World, *flags: str) -> Completed:
        done(
            w,
            "compute resource-policies create workload-policy a --region=us-central1 "
            "--type=high-throughput --accelerator-topology=2x2x2",
        )
        done(w, self.TEMPLATE, "--provisioning-model=SPOT", "--metadata=k=v", *flags)
        line = f"{GROUPS} create a {TPU7X} --size=2 --template=a --target-size-policy-mode=bulk"
        return call(
            w,
            f"{line} --default-action-on-vm-failure=do-nothing",
            f"--workload-policy={self.POLICY}",
        )

    def instances(self, w: World) -> list[Any]:
        return list(done(w, f"{GROUPS} list-instances a {TPU7X}"))

    def test_a_group_runs_is_reached_and_goes_in_the_right_order(self):
        w = world()
        assert self.create(w).returncode == 0
        assert [i["currentAction"] for i in self.instances(w)] == ["CREATING"] * 2
        w.clock.sleep(11)
        names = [i["name"] for i in self.instances(w) if i["instanceStatus"] == "RUNNING"]
        assert len(names) == 2
        assert call(w, f"compute ssh {names[1]} {TPU7X} --command=true").returncode == 0
        in_use = call(w, "compute resource-policies delete a --region=us-central1")
        assert in_use.returncode == 1 and "already being used" in in_use.stderr
        assert len(w.cloud.leaked()) == 2
        done(w, f"{GROUPS} delete a {TPU7X} --quiet")
        assert w.cloud.leaked() == [] and len(w.cloud.compute.leftovers()) == 2
        done(w, "compute instance-templates delete a")
        done(w, "compute resource-policies delete a --region=us-central1")
        assert w.cloud.compute.leftovers() == []

    def test_the_clouds_own_timer_and_preemption_take_machines_away(self):
        flags = ("--instance-termination-action=DELETE", "--max-run-duration=1h")
        w = world()
        self.create(w, *flags)
        w.clock.sleep(3500)
        assert len(self.instances(w)) == 2
        w.clock.sleep(200)
        assert self.instances(w) == [] and w.cloud.leaked() == []

    def test_a_policy_by_its_short_name_and_a_slice_without_bulk_are_refused(self):
        w = world()
        self.POLICY = "a"
        assert "URL is malformed" in self.create(w).stderr


def test_the_bill_counts_chips_and_seconds():
    w = world()
    done(w, REQUEST)
    w.clock.sleep(20 + 100)
    done(w, DELETE)
    w.clock.sleep(1000)
    assert w.cloud.meter.seconds() == {"v5litepod": pytest.approx(16 * (100 + 10), abs=16 * 3)}


def test_a_disk_that_was_left_is_a_leak():
    w = world()
    w.cloud.disks["old"] = "us-central1-a"
    assert w.cloud.leaked() == ["disk old"]
    assert done(w, "compute disks list", "--filter=name=old")[0]["name"] == "old"
    assert done(w, "compute disks list", "--filter=name=other") == []


def test_a_schedule_is_the_same_each_time():
    def history(seed: int) -> list[str]:
        w = World(Faults.drawn(seed))
        seen = []
        for _ in range(20):
            call(w, REQUEST)
            w.clock.sleep(60)
            seen.append(f"{w.clock.now()} {w.cloud.leaked()} {w.faults.struck}")
        return seen

    assert history(5) == history(5) != history(6)


class TestRealProcesses:
    STARTUP = "#!/bin/sh\nmkdir -p $POLYMATH_ROOT\nsleep 1000 &\necho $! > pids\n"

    def request(self, twin: Twin, script: str = STARTUP) -> None:
        path = twin.folder / "script"
        path.write_text(script)
        line = f"{REQUEST} --metadata-from-file=startup-script={path}"
        assert self.gcloud(twin, *line.split()).returncode == 0

    def gcloud(self, twin: Twin, *argv: str, stdin: bytes = b"") -> Any:
        return subprocess.run(
            ["gcloud", *argv], env=twin.environment, input=stdin, capture_output=True, timeout=20
        )

    def ssh(self, twin: Twin, command: str, worker: str = "all") -> Any:
        line = f"{NODE} ssh a {ZONE} --worker={worker}"
        return self.gcloud(twin, *line.split(), f"--command={command}")

    def test_a_machine_is_a_folder_with_metadata_and_its_processes_end_with_it(self, tmp_path):
        with Twin(tmp_path, quick()) as twin:
            self.request(twin)
            twin.wait(lambda: len(twin.processes()) == 4)
            asked = self.ssh(
                twin,
                "pwd; printf '\\377'; curl -s -H Metadata-Flavor:Google "
                "http://$GCE_METADATA_HOST/computeMetadata/v1/instance/attributes/"
                "agent-worker-number; exit 3",
                worker="2",
            )
            folder = tmp_path / "machines" / "a-2"
            assert asked.stdout == os.fsencode(folder) + b"\n\xff2" and asked.returncode == 3
            assert self.ssh(twin, "kill -STOP $(cat pids)").returncode == 0
            with twin.clock.lock:
                twin.cloud.tpu.preempt(twin.cloud.tpu.nodes["a"])
            assert twin.processes() == {} and not folder.exists()
            assert twin.leaked()[0].startswith("queued resource a SUSPEND")

    def test_a_machine_deletes_its_own_slice(self, tmp_path):
        with Twin(tmp_path, quick()) as twin:
            self.request(twin, f"#!/bin/sh\ngcloud {DELETE} --async --quiet\n")
            twin.cloud.account = None  # that of the laptop; machines have their own
            twin.wait(lambda: not twin.cloud.leaked())
            assert twin.processes() == {}

    def test_the_bucket_and_uv(self, tmp_path):
        with Twin(tmp_path, quick()) as twin:
            self.request(twin)
            self.gcloud(twin, "storage", "cp", "-", "gs://bucket/a/b", stdin=b"text")
            twin.wait(lambda: len(twin.processes()) == 4)
            assert (tmp_path / "buckets" / "bucket" / "a" / "b").read_bytes() == b"text"
            made = self.ssh(
                twin,
                "gcloud storage rsync --recursive gs://bucket/a data; cat data/b; uv venv venv; "
                "venv/bin/python -c 'print(6 * 7)'; uv pip install -r no",
                worker="0",
            )
            assert made.stdout == b"text42\n" and made.returncode == 2

    def test_nothing_lives_when_the_twin_is_closed(self, tmp_path):
        with Twin(tmp_path, quick()) as twin:
            self.request(twin)
            twin.wait(lambda: len(twin.processes()) == 4)
        assert twin.processes() == {}
        begun = time.monotonic()
        lonely = self.gcloud(twin, "version")
        assert lonely.returncode == 1 and time.monotonic() - begun < 5
