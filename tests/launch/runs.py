"""Whole runs of `launch/tpu.py` that really train, on the twin with real processes.

python -m tests.launch.runs --count=20 FOLDER
"""

import argparse
import json
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax
import numpy as np

from launch.worker.files import read_json
from research.training.run import open_run
from tests.launch.twin.daemon import Twin, quick

ROOT = Path(__file__).parents[2]
SENT = ("research", "launch", "experiments", "requirements-tpu.lock", "pyproject.toml")
# The launcher with its patience scaled down, as the twin's delays are.
LAUNCHER = """
import sys
sys.path.insert(0, sys.argv[1])
from launch import lifecycle
lifecycle.EVERY, lifecycle.UNREACHABLE_SECONDS, lifecycle.UNSEEN_SECONDS = 0.3, 10.0, 5.0
from launch.gcloud import LocalHost
from launch.tpu import main
sys.exit(main(sys.argv[2:], LocalHost()))
"""
MACHINES = ("--accelerator=v4-16", "--zone=us-central2-b", "--spot")  # two workers
TRAINING = (
    "--config=experiments/image_classification/digits_mlp.py",
    "--config.duration=300 steps",
    "--config.checkpoint_every=20 steps",
    "--config.evaluate_every=100 steps",
    "--config.log_every=20 steps",
    "--workdir=gs://bucket/run",
)


def tree(folder):
    """A repository with the code as it is in this one, changed or not."""
    folder.mkdir()
    git = ["git", "-C", str(folder), "-c", "user.name=a", "-c", "user.email=a@b"]
    for name in SENT:
        subprocess.run(["cp", "-r", str(ROOT / name), str(folder)], check=True)
    (folder / ".gitignore").write_text("__pycache__/\n*.egg-info/\n")
    for command in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "all"]):
        subprocess.run([*git, *command], check=True)
    return folder


def twin(folder, faults=None):
    """A twin whose machines train on CPU, and share compiled programs as their disks would not."""
    cache = folder.parent / "compiled"
    environment = {"JAX_PLATFORMS": "cpu", "JAX_COMPILATION_CACHE_DIR": str(cache)}
    environment |= {"XLA_FLAGS": "", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    return Twin(folder, faults or quick(), environment)


class Launcher:
    """A `launch/tpu.py` on the laptop of a twin; its events as they come."""

    def __init__(self, twin, code, verb, *flags, training=()):
        argv = [sys.executable, "-c", LAUNCHER, str(code), verb, "run", "--json", *flags]
        argv += ["--", *training] if training else []
        environment = twin.environment | {"PYTHONPATH": str(code)}
        self.errors = twin.folder / "laptop.log"
        with self.errors.open("ab") as errors:
            self.process = subprocess.Popen(
                argv, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True
            )
        self.events = []
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self):
        for line in self.process.stdout:
            self.events.append(json.loads(line))

    def wait_for(self, event, timeout=120.0):
        """Waits until it has told of an event."""
        until = time.monotonic() + timeout
        while not any(one.get("event") == event for one in self.events):
            if time.monotonic() > until or self.process.poll() is not None:
                raise TimeoutError(f"no {event}: {self.events[-5:]} {self.errors.read_text()}")
            time.sleep(0.05)

    def kill(self):
        """The laptop is gone."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def end(self, timeout=300.0):
        """Waits for its end; what it told at last."""
        self.process.wait(timeout)
        self._thread.join()
        return self.events[-1] if self.events else {}


def parameters(twin):
    """Those that the run in a twin's bucket ended with."""
    run = open_run(twin.folder / "buckets" / "bucket" / "run")
    return jax.device_get(run.state.params), run.progress.step


def same_bits(one, other):
    """Whether two trees of parameters are equal to the bit."""
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return all(np.array_equal(a.view(np.uint32), b.view(np.uint32)) for a, b in pairs)


def schedule(folder, code, seed):
    """A run through a random schedule of failures; its parameters, how often it began, seconds.

    Machines are taken away up to three times, at any moment; the laptop may be killed, and
    another one attaches.
    """
    drawn = random.Random(seed)
    kinds = ["preemption"] * drawn.randint(1, 3)
    kinds += drawn.sample(["ssh once", "lost reply", "unavailable", "maintenance", "stock-out"], 2)
    moments = {"preemption": (5.0, 30.0), "maintenance": (5.0, 30.0), "stock-out": 1.0}
    began = time.monotonic()
    with twin(folder, quick(*kinds, seed=seed, **moments)) as cloud:
        launcher = Launcher(cloud, code, "run", *MACHINES, "--tries=20", training=TRAINING)
        told = []
        if drawn.random() < 0.4:
            launcher.wait_for("creating")
            time.sleep(drawn.uniform(1, 20))
            launcher.kill()
            told = launcher.events
            time.sleep(drawn.uniform(0, 5))
            launcher = Launcher(cloud, code, "attach", "--zone=us-central2-b")
        outcome, told = launcher.end(), told + launcher.events
        left, living = cloud.leaked(), cloud.processes()
        found, step = parameters(cloud)
    wrong = [] if outcome.get("outcome") == "finished" else [f"ended as {outcome}"]
    wrong += [f"left: {left}"] if left else []
    wrong += [f"processes: {living}"] if living else []
    wrong += [] if step == 300 else [f"at step {step}"]
    attempts = sum(event.get("event") == "creating" for event in told)
    return found, attempts, time.monotonic() - began, cloud.faults.struck, wrong


def undisturbed(folder, code):
    """The parameters of a run in which nothing fails, and its events."""
    with twin(folder) as cloud:
        launcher = Launcher(cloud, code, "run", *MACHINES, training=TRAINING)
        outcome = launcher.end()
        assert outcome.get("outcome") == "finished", (outcome, launcher.errors.read_text())
        assert cloud.leaked() == [] and cloud.processes() == {}
        return parameters(cloud)[0], launcher.events


def _trains(cloud):
    """Whether a worker has made its first step."""
    facts = (
        read_json(worker.root / "supervisor.json") for worker in cloud.machines.workers.values()
    )
    return any(one.get("first_step_at") for one in facts)


def orphaned(folder, code, seconds):
    """Kills the laptop in the middle of a training; how long after its cap the slice was gone.

    Args:
      folder: of the twin.
      code: what is run.
      seconds: the cap.
    """
    endless = [*TRAINING[:1], "--config.duration=1000000 steps", TRAINING[-1]]
    with twin(folder) as cloud:
        cap = f"--max-hours={seconds / 3600}"
        launcher = Launcher(cloud, code, "run", *MACHINES, cap, training=endless)
        cloud.wait(lambda: _trains(cloud), timeout=seconds)
        launcher.kill()
        cloud.cloud.account = None  # nothing of the laptop's comes through any more
        born = min(float((w.root / "born").read_text()) for w in cloud.machines.workers.values())
        cloud.wait(lambda: not cloud.cloud.leaked(), timeout=seconds + 120)
        late = time.time() - born - seconds
        assert cloud.processes() == {}
        return late, parameters(cloud)[1]


def main():
    """Runs many, and compares each with the undisturbed one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--orphans", type=int, default=5, help="launches whose laptop is killed")
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("folder", type=Path)
    given = parser.parse_args()
    given.folder.mkdir(parents=True)
    code = tree(given.folder / "tree")
    expected, events = undisturbed(given.folder / "undisturbed", code)
    start = events[0]["time"]
    for event in events:
        if not event.get("event", "log").startswith("log"):
            print(f"{event['time'] - start:6.1f} s  {event['event']}")
    bad = 0
    for seed in range(given.first, given.first + given.count):
        found, attempts, seconds, struck, wrong = schedule(given.folder / f"{seed}", code, seed)
        wrong += [] if same_bits(expected, found) else ["other bits"]
        bad += bool(wrong)
        print(
            f"schedule {seed}: {attempts} attempts, {seconds:.0f} s, {struck} {wrong}", flush=True
        )
    print(f"{given.count} schedules, {bad} wrong")
    for trial in range(given.orphans):
        late, step = orphaned(given.folder / f"orphan {trial}", code, 30.0)
        print(f"laptop killed: gone {late:.1f} s after the cap, saved at step {step}")


if __name__ == "__main__":
    main()
