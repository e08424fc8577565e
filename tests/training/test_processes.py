import dataclasses
import json
import os
import socket
import subprocess
import sys

import jax
import numpy as np
import optax
import pytest

from research.hardware.mesh import MeshConfig
from research.training.evaluation import evaluate
from research.training.loop import Trainer
from research.training.metrics import read_metrics
from research.training.run import open_run

WORKER = """
import dataclasses, json, sys
from pathlib import Path
import jax

port, process, workdir, mesh = sys.argv[1:]
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_cpu_collectives_implementation", "gloo")
jax.distributed.initialize(f"localhost:{port}", num_processes=2, process_id=int(process))

from research.hardware.mesh import MeshConfig
from research.common.storage import as_path
from research.training.evaluation import evaluate
from research.training.experiment import load_experiment
from research.training.loop import Trainer
from research.training.optimizer import Optimizer

experiment = load_experiment(Path("experiments/image_classification/digits_cnn.py"))
experiment = dataclasses.replace(
    experiment,
    # A few small steps of SGD: rounding can differ between one and two processes, and Adam, ReLU
    # and max-pooling amplify the difference with every step.
    optimizer=Optimizer(name="sgd", learning_rate=0.01),
    duration="6 steps",
    log_every="2 steps",
    evaluate_every="6 steps",
    checkpoint_every="6 steps",
    mesh=MeshConfig(**json.loads(mesh)),
)
run, _ = Trainer(experiment, as_path(workdir, write=True)).train()
results, _ = evaluate(run.program, run.state, experiment.task.dataset("test"))
print(json.dumps(results))
"""


def two_processes(workdir, mesh):
    """Trains in two processes with two devices each; returns the test metrics of both."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    environment = {k: v for k, v in os.environ.items() if k not in ("XLA_FLAGS", "JAX_PLATFORMS")}
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, str(port), str(i), str(workdir), json.dumps(mesh)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            text=True,
        )
        for i in range(2)
    ]
    done = [worker.communicate(timeout=240) for worker in workers]
    assert all(worker.returncode == 0 for worker in workers), done[0][1] + done[1][1]
    return [json.loads(out.splitlines()[-1]) for out, _ in done]


def distance(a, b):
    return float(optax.tree.norm(jax.tree.map(np.subtract, a, b)))


@pytest.mark.slow
@pytest.mark.usefixtures("full_compilation")
@pytest.mark.parametrize("mesh", [{}, {"fsdp": 4}, {"fsdp": 2, "tensor": 2}], ids=str)
def test_two_processes_train_like_one(tmp_path, mesh):
    """Each process reads its own rows; parameters and metrics are those of a single process."""
    first, second = two_processes(tmp_path / "two", mesh)
    assert first == second
    assert first["examples"] == 360
    two = open_run(tmp_path / "two")
    mesh = MeshConfig(devices=4, **mesh)
    alone = dataclasses.replace(two.program.experiment, mesh=mesh)
    one, _ = Trainer(alone, tmp_path / "one").train()
    begin, alone, together = jax.device_get(
        (one.program.initialize().params, one.state.params, two.state.params)
    )
    # Relative to the update by training: a row that is read twice would change half of it.
    assert distance(alone, together) < 0.01 * distance(alone, begin)
    results, _ = evaluate(one.program, one.state, one.program.task.dataset("test"))
    assert first["loss"] == pytest.approx(results["loss"], rel=1e-3)
    losses = [[line["loss"] for line in read_metrics(tmp_path / name)] for name in ("one", "two")]
    np.testing.assert_allclose(*losses, rtol=1e-3)
