"""The agent's commands as the launcher calls them over SSH, on workers that are folders."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from launch.local_slice import ROOT, free_ports
from launch.worker import devices
from launch.worker.agent import MAX_READ_BYTES
from launch.worker.metadata import JobError, WorkerRank, worker_rank
from launch.worker.process import kill_by_environment
from launch.worker.supervisor import read_heartbeat
from research.common import processes
from research.training.logging import TrainingLogger
from research.training.loop import Trainer
from tests.launch.failures import alive
from tests.launch.twin.metadata import Metadata

AGENT = ROOT / "launch" / "worker" / "agent.py"
# A training that says how far it is, and saves itself when it is asked to end.
TRAINING = """\
import faulthandler, os, signal, sys, time
def end(*_):
    print("saved", flush=True)
    sys.exit(143)
signal.signal(signal.SIGTERM, end)
faulthandler.register(signal.SIGUSR1)
steps = int(sys.argv[1])
file = os.open(os.environ["POLYMATH_HEARTBEAT"], os.O_WRONLY | os.O_CREAT)
for step in range(steps):
    os.pwrite(file, b"%20d %20d\\n" % (step, step + 1), 0)
    print("step", step, flush=True)
    time.sleep(0.02)
"""


class Worker:
    """A folder, and the agent in it."""

    def __init__(self, folder, environment=()):
        self.folder = folder
        self.environment = os.environ | {"POLYMATH_ROOT": str(folder)} | dict(environment)

    def call(self, *arguments, text=True):
        return subprocess.run(
            [sys.executable, str(AGENT), *arguments],
            env=self.environment,
            capture_output=True,
            text=text,
            timeout=60,
        )

    def job(self, *arguments, **changes):
        return {
            "name": "run",
            "attempt": 1,
            "arguments": list(map(str, arguments)),
            "workdir": str(self.folder / "workdir"),
            "environment": {"PYTHONPATH": str(ROOT)},
            "stall_seconds": 600,
            "grace_seconds": 20,
            "hosts": ["localhost"],
            "python": sys.executable,
            "directory": str(ROOT),
        } | changes

    def start(self, *arguments, rank=0, **changes):
        job = json.dumps(self.job(*arguments, **changes))
        return self.call("start", f"--job={job}", f"--rank={rank}")

    def train(self, steps, **changes):
        done = self.start("-c", TRAINING, steps, **changes)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def poll(self, offset=0):
        """Status and log."""
        rank = json.dumps({str(i): offset for i in range(4)})
        head, _, log = self.call("poll", f"--offsets={rank}").stdout.partition("\n")
        return json.loads(head), log

    def wait_for(self, condition, seconds=20):
        until = time.monotonic() + seconds
        while not condition(status := self.poll()[0]):
            assert time.monotonic() < until, status
            time.sleep(0.1)
        return status


@pytest.fixture
def worker(tmp_path):
    one = Worker(tmp_path / "worker")
    yield one
    one.call("stop", "--grace=0")
    assert alive(tmp_path) == []


def is_in(*states):
    return lambda status: status["state"] in states


def test_the_training_reads_the_copied_datasets(worker):
    tell = "import os; print(os.environ['TFDS_DATA_DIR'])"
    (worker.folder / "data").mkdir(parents=True)
    assert worker.start("-c", tell).returncode == 0
    worker.wait_for(is_in("finished"))
    assert worker.poll()[1] == f"{worker.folder / 'data'}\n"


def test_polling_follows_a_training_to_its_end(worker):
    assert worker.poll() == ({**worker.poll()[0], "state": "idle", "rank": None, "offset": 0}, "")
    assert worker.train(10)["rank"] == 0
    status = worker.wait_for(is_in("finished"))
    assert status["verdict"]["outcome"] == "finished"
    assert (status["attempt"], status["step"]) == (1, 9)
    assert abs(status["first_step_at"] - time.time()) < 20
    log = "".join(f"step {i}\n" for i in range(10))
    assert worker.poll()[1] == log
    # The workdir keeps what the machine will not.
    kept = worker.folder / "workdir" / "logs" / "attempt-1"
    assert (kept / "worker-0.log").read_text() == log
    assert json.loads((kept / "result.json").read_text()) == status["verdict"]


def test_the_log_is_read_from_an_offset(worker):
    worker.train(3)
    offset = worker.wait_for(is_in("finished"))["offset"]
    assert offset == len("step 0\n") * 3
    assert worker.poll(len("step 0\n")) == (worker.poll()[0], "step 1\nstep 2\n")
    assert worker.poll(offset)[1] == ""
    assert worker.poll(10**6)[1] == "step 0\nstep 1\nstep 2\n"  # an offset in an older, longer log


@pytest.mark.slow
def test_a_long_log_comes_in_parts_of_whole_lines(worker):
    code = "print('\\n'.join(str(i) * 50 for i in range(9000)), end='')"
    worker.start("-c", code)
    worker.wait_for(is_in("finished"))
    log, offset = (worker.folder / "logs" / "training.log").read_text(), 0
    parts = []
    while True:
        status, part = worker.poll(offset)
        if not part:
            break
        assert len(part) <= MAX_READ_BYTES
        offset = status["offset"]
        parts.append(part)
    assert "".join(parts) == log
    assert all(part.endswith("\n") for part in parts[:-1])
    assert len(parts) > 1


@pytest.mark.slow
def test_polling_and_training_renew_the_lease(worker):
    worker.train(300)
    lease = worker.folder / "lease"
    for renew in (worker.poll, lambda: time.sleep(1.5)):
        os.utime(lease, (0, 0))
        renew()
        assert time.time() - lease.stat().st_mtime < 5


def test_only_one_training_runs_at_a_time(worker):
    worker.train(1000)
    again = worker.start("-c", TRAINING, 5)
    assert (again.returncode, again.stdout) == (2, "")
    assert (
        again.stderr == "error: a training is already running here; stop it with `agent.py stop`\n"
    )
    assert worker.poll()[0]["state"] == "running"


def test_stop_saves_a_checkpoint_and_is_idempotent(worker):
    worker.train(1000)
    worker.wait_for(lambda status: status["step"])
    done = worker.call("stop")
    assert json.loads(done.stdout)["state"] == "stopped"
    status, log = worker.poll()
    assert log.endswith("saved\n")
    assert (status["verdict"]["outcome"], status["verdict"]["again"]) == ("stopped", False)
    assert alive(worker.folder) == []
    assert json.loads(worker.call("stop").stdout)["state"] == "stopped"


def test_stop_without_a_training_does_nothing(worker):
    assert json.loads(worker.call("stop").stdout)["state"] == "idle"


@pytest.mark.slow
def test_a_training_is_killed_after_the_grace_period(worker):
    deaf = "import signal, time; signal.signal(15, signal.SIG_IGN); print('deaf', flush=True)"
    worker.start("-c", deaf + "; time.sleep(1000)")
    worker.wait_for(lambda _: "deaf" in worker.poll()[1])
    begun = time.monotonic()
    worker.call("stop", "--grace=0.5", "--again")
    assert time.monotonic() - begun < 5
    assert worker.poll()[0]["verdict"]["again"]


def test_a_shutdown_of_the_machine_saves_a_checkpoint(worker):
    """All processes get SIGTERM without a stop request, so that the training restarts."""
    pid = worker.train(1000)["pid"]
    worker.wait_for(lambda status: status["step"])
    os.kill(pid, signal.SIGTERM)
    verdict = worker.wait_for(is_in("stopped"))["verdict"]
    assert verdict["again"]
    assert worker.poll()[1].endswith("saved\n")


def test_the_verdict_names_the_timer_that_stopped_the_training(worker):
    pid = worker.train(1000)["pid"]
    (worker.folder / "deadman.json").write_text('{"reason": "its 8 hours are over", "born": 5}')
    os.kill(pid, signal.SIGTERM)
    status = worker.wait_for(is_in("stopped"))
    assert status["verdict"]["cause"] == "the dead man's timer: its 8 hours are over"
    assert (status["verdict"]["again"], status["born"]) == (False, 5)


def test_no_training_outlives_its_supervisor(worker):
    pid = worker.train(1000)["pid"]
    worker.wait_for(is_in("running"))
    os.kill(pid, signal.SIGKILL)
    status = worker.wait_for(is_in("failed"))
    assert "its agent was lost" in status["verdict"]["cause"]
    assert status["verdict"]["again"]
    assert alive(worker.folder) == []


def test_child_processes_of_a_training_end_with_it(worker):
    code = "import subprocess; subprocess.Popen(['sleep', '1000']); print('off')"
    worker.start("-c", code)
    worker.wait_for(is_in("finished"))
    assert alive(worker.folder) == []


def test_start_kills_a_leftover_training(worker):
    marked = worker.environment | {"POLYMATH_HEARTBEAT": str(worker.folder / "heartbeat")}
    left = subprocess.Popen(["sleep", "1000"], env=marked)
    worker.train(3)
    assert left.wait(5) == -signal.SIGKILL


def test_kill_by_environment_spares_other_processes(tmp_path):
    others = [
        subprocess.Popen(["sleep", "1000"], env={"POLYMATH_HEARTBEAT": f"{tmp_path}/{name}"})
        for name in ("other", "heartbeat2")
    ]
    kill_by_environment(f"POLYMATH_HEARTBEAT={tmp_path}/heartbeat")
    assert [other.poll() for other in others] == [None, None]
    for other in others:
        other.kill()
        other.wait()


def test_processes_that_use_the_accelerator_are_killed(tmp_path):
    device, other = tmp_path / "accel0", tmp_path / "disk0"
    holders = []
    for path in (device, other):
        with path.open("w+") as file:
            holders.append(subprocess.Popen(["sleep", "1000"], stdin=file))
    killed = devices.kill_holders((str(tmp_path / "accel*"),))
    assert killed == [f"{holders[0].pid} sleep 1000"]
    assert holders[0].wait(5) == -signal.SIGKILL
    assert holders[1].poll() is None
    holders[1].kill()
    holders[1].wait()


def test_a_training_that_cannot_start_reports_the_cause(worker):
    worker.train(3, python="/nowhere/python")
    cause = worker.wait_for(is_in("failed"))["verdict"]["cause"]
    assert cause == "cannot start /nowhere/python: No such file or directory"


def test_a_user_error_does_not_change_the_workdir(worker):
    worker.start("-c", "import sys; print('error: config.seed: is -1'); sys.exit(2)")
    verdict = worker.wait_for(is_in("failed"))["verdict"]
    assert (verdict["code"], verdict["traceback"]) == (2, "error: config.seed: is -1")
    assert not (worker.folder / "workdir").exists()


@pytest.mark.slow
def test_two_workers_start_and_end_together(tmp_path):
    gang, coordinator = free_ports(2)
    ports = {"POLYMATH_GANG_PORT": str(gang), "POLYMATH_COORDINATOR_PORT": str(coordinator)}
    workers = [Worker(tmp_path / str(rank), ports) for rank in range(2)]
    code = "import os, time; print(os.environ['JAX_PROCESS_ID'], os.environ['JAX_NUM_PROCESSES'], "
    code += "os.environ['JAX_COORDINATOR_ADDRESS'], flush=True); time.sleep(1000)"
    hosts = ["localhost", "localhost"]
    workers[1].start("-c", code, rank=1, hosts=hosts)
    assert workers[1].poll()[0]["state"] == "starting"
    workers[0].start("-c", code, rank=0, hosts=hosts)
    for rank, one in enumerate(workers):
        one.wait_for(lambda _, one=one: one.poll()[1])
        assert one.poll()[1] == f"{rank} 2 localhost:{coordinator}\n"
    workers[1].call("stop")
    verdicts = [one.wait_for(is_in("stopped"))["verdict"] for one in workers]
    assert [verdict["rank"] for verdict in verdicts] == [1, 1]
    assert alive(tmp_path) == []


@pytest.mark.slow
def test_a_waiting_worker_does_not_count_as_lost(tmp_path):
    """One worker starts and finishes long before the others."""
    impatient = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); "
        "from launch.worker import agent, supervisor, wire; "
        "wire.SILENCE_SECONDS = 0.8; wire.HEARTBEAT_SECONDS = supervisor.HEARTBEAT_SECONDS = 0.2; "
        "sys.exit(agent.main(sys.argv[1:]))"
    )
    ports = {"POLYMATH_GANG_PORT": str(free_ports(1)[0])}
    workers, agents = [Worker(tmp_path / str(rank), ports) for rank in range(3)], []
    for rank, seconds in ((0, 2), (1, 0), (2, 2)):
        code = f"import time; time.sleep({seconds})"
        job = json.dumps(workers[rank].job("-c", code, hosts=["localhost"] * 3))
        command = [sys.executable, "-c", impatient, "supervise", f"--job={job}", f"--rank={rank}"]
        agents.append(subprocess.Popen(command, env=workers[rank].environment))
        time.sleep(1.5 * (rank == 1))
    assert [agent.wait(20) for agent in agents] == [0, 0, 0]


def test_an_invalid_rank_is_an_error(worker):
    done = worker.start("-c", TRAINING, 3, rank=1)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: invalid --rank=1: the job has 1 hosts; expected 0 to 0\n"


@pytest.mark.parametrize("endpoints", ["10.0.0.4,10.0.0.5", "a:8470:10.0.0.4,b:8470:10.0.0.5"])
def test_the_rank_in_a_slice_comes_from_the_metadata(monkeypatch, endpoints):
    metadata = Metadata({"agent-worker-number": "1", "worker-network-endpoints": endpoints})
    monkeypatch.setenv("GCE_METADATA_HOST", metadata.address)
    assert worker_rank({"hosts": None}, None) == WorkerRank(1, 2, "10.0.0.4")
    metadata.close()


def test_the_rank_in_several_slices(monkeypatch):
    environment = (
        "ACCELERATOR_TYPE: 'v4-16'\nMEGASCALE_COORDINATOR_ADDRESS: '10.0.0.2:8080'\n"
        "MEGASCALE_NUM_SLICES: '3'\nMEGASCALE_SLICE_ID: '2'\n"
    )
    metadata = Metadata(
        {
            "agent-worker-number": "1",
            "worker-network-endpoints": "10.0.0.6,10.0.0.7",
            "tpu-env": environment,
        }
    )
    monkeypatch.setenv("GCE_METADATA_HOST", metadata.address)
    assert worker_rank({}, None) == WorkerRank(5, 6, "10.0.0.2")
    metadata.close()


def test_metadata_without_workers_are_an_error(monkeypatch):
    metadata = Metadata({})
    monkeypatch.setenv("GCE_METADATA_HOST", metadata.address)
    with pytest.raises(JobError, match="set the job's hosts"):
        worker_rank({}, None)
    metadata.close()


@pytest.mark.slow
def test_the_engine_sends_a_heartbeat_per_step_and_evaluation_batch(
    experiment, tmp_path, monkeypatch
):
    heartbeat, seen = tmp_path / "heartbeat", []
    monkeypatch.setenv("POLYMATH_HEARTBEAT", str(heartbeat))
    monkeypatch.setattr(
        TrainingLogger, "advance", lambda self, loss: seen.append(read_heartbeat(heartbeat))
    )
    processes._heartbeat_file.cache_clear()
    try:
        processes.join()
        assert read_heartbeat(heartbeat) == (None, 1)
        Trainer(experiment, tmp_path / "run").train()
    finally:
        processes._heartbeat_file.cache_clear()
    assert [step for step, _ in seen] == list(range(1, 25))
    counts = [count for _, count in seen]
    assert counts[:12] == list(range(2, 14))
    batches = counts[12] - counts[11] - 1  # of the evaluation after step 12
    assert batches > 0
    assert read_heartbeat(heartbeat) == (24, counts[-1] + batches)
