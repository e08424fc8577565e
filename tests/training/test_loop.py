import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
import types

import jax
import numpy as np
import pytest

from research.common.config import to_config_dict
from research.common.errors import UserError
from research.hardware.mesh import MeshConfig
from research.tasks.image_classification.augmentation import Augmentation
from research.tasks.image_classification.models import CNN
from research.training.clock import CompilationCounter
from research.training.evaluation import evaluate
from research.training.logging import TrainingLogger
from research.training.loop import Trainer
from research.training.metrics import read_metrics
from research.training.optimizer import Optimizer
from research.training.run import open_run
from tests.training.states import saved_state

_TIMES = ("seconds", "examples_per_second", "compilations")


@pytest.fixture(scope="module")
def rich(with_model):
    """An experiment with dropout, mixup, CutMix and averaged parameters."""
    augmentation = Augmentation(crop_padding=1, mixup=0.2, cutmix=1.0)
    experiment = with_model(CNN(widths=(8,), dropout=0.2), augmentation=augmentation)
    return dataclasses.replace(experiment, ema_decay=0.9)


@pytest.fixture(scope="module")
def uninterrupted(rich, tmp_path_factory):
    """State and metrics of an uninterrupted run."""
    return train_to_end(rich, tmp_path_factory.mktemp("uninterrupted"))


@pytest.fixture(scope="module")
def uninterrupted_pairs(pairs, tmp_path_factory):
    return train_to_end(pairs, tmp_path_factory.mktemp("uninterrupted"))


def train_to_end(experiment, workdir):
    Trainer(experiment, workdir).train()
    return saved_state(workdir, experiment), metrics(workdir)


def metrics(workdir):
    lines = read_metrics(workdir)
    return [{k: v for k, v in line.items() if k not in _TIMES} for line in lines]


def assert_equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(a), jax.device_get(b))


class Killed(BaseException):
    """Simulates SIGKILL; not an Exception, so that no handler cleans up."""


def train_and_die(experiment, workdir, monkeypatch, after):
    """Kills a run after a number of steps of this process."""
    steps = iter(range(1, 10_000))

    def advance(self, loss):
        if next(steps) == after:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(TrainingLogger, "advance", advance)
        with pytest.raises(Killed):
            Trainer(experiment, workdir).train()


@pytest.mark.slow
def test_the_same_seed_gives_the_same_bits(rich, uninterrupted, tmp_path):
    state, lines = train_to_end(rich, tmp_path / "again")
    assert_equal(uninterrupted[0], state)
    assert uninterrupted[1] == lines
    other, _ = train_to_end(dataclasses.replace(rich, seed=1), tmp_path / "other")
    kernels = [one.params["head"]["kernel"] for one in (state, other)]
    assert not np.array_equal(*map(np.asarray, kernels))


@pytest.mark.parametrize(
    "step",
    [*(pytest.param(n, marks=pytest.mark.slow) for n in (1, 8, 13)), 23],
)
def test_a_run_killed_at_any_step_ends_with_the_same_bits(
    rich, uninterrupted, tmp_path, monkeypatch, step
):
    train_and_die(rich, tmp_path, monkeypatch, after=step)
    state, lines = train_to_end(rich, tmp_path)
    assert_equal(uninterrupted[0], state)
    assert uninterrupted[1] == lines


@pytest.mark.slow
def test_a_run_on_four_devices_killed_twice_ends_with_the_same_bits(rich, tmp_path, monkeypatch):
    rich = dataclasses.replace(rich, mesh=MeshConfig(devices=4, fsdp=2))
    Trainer(rich, tmp_path / "uninterrupted").train()
    train_and_die(rich, tmp_path / "killed", monkeypatch, after=10)
    train_and_die(rich, tmp_path / "killed", monkeypatch, after=12)
    Trainer(rich, tmp_path / "killed").train()
    assert_equal(saved_state(tmp_path / "uninterrupted"), saved_state(tmp_path / "killed"))
    assert metrics(tmp_path / "uninterrupted") == metrics(tmp_path / "killed")


@pytest.mark.slow
@pytest.mark.parametrize("step", [3, 13])
def test_a_run_with_several_batch_sizes_resumes_to_the_same_bits(
    pairs, uninterrupted_pairs, tmp_path, monkeypatch, step
):
    train_and_die(pairs, tmp_path, monkeypatch, after=step)
    state, lines = train_to_end(pairs, tmp_path)
    assert_equal(uninterrupted_pairs[0], state)
    assert uninterrupted_pairs[1] == lines


def test_batch_length_limits_the_batch_size_of_each_bucket(pairs, tmp_path):
    data = Trainer(pairs, tmp_path).data
    sizes = {}
    for batch in data.batches(0, data.sampler.batches_per_epoch):
        padded = batch["frames"].shape[1], batch["notes"].shape[1]
        sizes.setdefault(padded, set()).add(len(batch["mask"]))
    # Multiples of 8 with at most 300 frames; one size per bucket, so one compilation.
    assert sizes == {(6, 6): {24}, (6, 12): {16}, (12, 6): {16}, (12, 12): {8}}


@pytest.mark.slow
def test_progress_counts_examples_of_several_batch_sizes(pairs, tmp_path):
    trainer = Trainer(pairs, tmp_path)
    sizes = [len(batch["mask"]) for batch in trainer.data.batches(0, 24)]
    per_epoch = trainer.data.sampler.batches_per_epoch
    epochs = dataclasses.replace(pairs, duration=f"{3 * sum(sizes[:per_epoch])} examples")
    assert Trainer(epochs, tmp_path / "epochs").total == 3 * per_epoch
    run, _ = trainer.train()
    assert run.progress.epoch == 24 // per_epoch
    assert run.progress.example == sum(sizes[24 // per_epoch * per_epoch :])
    lines = [line for line in read_metrics(tmp_path) if line["split"] == "train"]
    seconds = np.diff([0, *(line["seconds"] for line in lines)])
    examples = sum(seconds * [line["examples_per_second"] for line in lines])
    assert examples == pytest.approx(sum(sizes), rel=0.01)


@pytest.mark.parametrize("mesh", [{}, {"devices": 4}, {"fsdp": 2, "tensor": 2}], ids=str)
def test_batches_do_not_depend_on_the_number_of_devices(pairs, tmp_path, mesh):
    on_many = dataclasses.replace(pairs, mesh=MeshConfig(**mesh))
    data = [Trainer(one, tmp_path / str(i)).data for i, one in enumerate((pairs, on_many))]
    assert data[0].sampler.batches_per_epoch == data[1].sampler.batches_per_epoch
    for ours, theirs in zip(*(part.batches(0, 24) for part in data), strict=True):
        assert_equal(ours, theirs)


@pytest.mark.slow
def test_a_process_killed_by_sigkill_resumes_to_the_same_bits(tmp_path):
    def command(name):
        return [
            *(sys.executable, "-m", "research.train", f"--workdir={tmp_path / name}"),
            "--config=experiments/image_classification/digits_cnn.py",
            *("--config.duration=6 epochs", "--config.checkpoint_every=5 steps"),
        ]

    environment = os.environ | {"XLA_FLAGS": ""}
    subprocess.run(command("uninterrupted"), check=True, env=environment, capture_output=True)
    rng = np.random.default_rng(0)
    for _ in range(4):
        process = subprocess.Popen(command("killed"), env=environment, stderr=subprocess.DEVNULL)
        checkpoints = tmp_path / "killed" / "checkpoints"
        before = len(list(checkpoints.glob("*"))) if checkpoints.exists() else 0
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and process.poll() is None:
            now = len(list(checkpoints.glob("*"))) if checkpoints.exists() else 0
            if now > before:
                break
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.3))
        process.send_signal(signal.SIGKILL)
        process.wait()
    subprocess.run(command("killed"), check=True, env=environment, capture_output=True)
    states = [saved_state(tmp_path / name) for name in ("uninterrupted", "killed")]
    assert_equal(*states)
    assert metrics(tmp_path / "uninterrupted") == metrics(tmp_path / "killed")


def test_a_finished_run_is_not_modified(experiment, tmp_path):
    assert Trainer(experiment, tmp_path).train()[1]
    before = modification_times(tmp_path)
    run, trained = Trainer(experiment, tmp_path).train()
    assert not trained
    assert int(run.state.step) == 24
    assert before == modification_times(tmp_path)


def modification_times(workdir):
    files = [path for path in workdir.rglob("*") if path.is_file() and path.name != "lock"]
    return {path: path.stat().st_mtime_ns for path in files}


def test_nothing_compiles_in_steady_state(experiment, tmp_path):
    """All functions are compiled by the first log, evaluation and save."""
    experiment = dataclasses.replace(experiment, duration="48 steps")
    Trainer(experiment, tmp_path).train()
    counts = {
        line["step"]: line["compilations"] for line in read_metrics(tmp_path) if "seconds" in line
    }
    # Steps 1 to 12 call the training step, the evaluation step and the fingerprint of a save.
    assert len({count for step, count in counts.items() if step > 12}) == 1
    assert counts[48] <= 4


def test_a_changed_shape_counts_as_a_compilation():
    """The test above relies on this counter."""
    function = jax.jit(lambda x: x * 2.5 + 1)
    with CompilationCounter() as compilations:
        function(np.ones(3, np.float32))
        first = compilations.count
        function(np.ones(3, np.float32))
        assert compilations.count == first > 0
        function(np.ones(4, np.float32))
        assert compilations.count > first


def test_steps_do_not_transfer_from_the_host_implicitly(experiment, tmp_path, monkeypatch):
    """A batch on the host triggers the transfer guard."""
    trainer = Trainer(experiment, tmp_path)
    original = trainer.data.batches
    host = lambda *args: (jax.device_get(batch) for batch in original(*args))  # noqa: E731
    monkeypatch.setattr(trainer.data, "batches", host)
    with pytest.raises(Exception, match="Disallowed host-to-device transfer"):
        trainer.train()


def test_a_loss_that_is_not_finite_ends_the_run(experiment, tmp_path):
    wild = Optimizer(name="sgd", learning_rate=1e30, schedule="constant")
    with pytest.raises(UserError, match=r"the loss is (nan|inf) at step 6; lower"):
        Trainer(dataclasses.replace(experiment, optimizer=wild), tmp_path).train()


def test_a_workdir_of_another_config_is_refused(experiment, tmp_path, monkeypatch):
    train_and_die(experiment, tmp_path, monkeypatch, after=20)
    other = dataclasses.replace(experiment, seed=5, optimizer=Optimizer(learning_rate=0.5))
    with pytest.raises(UserError) as error:
        Trainer(other, tmp_path)
    assert "optimizer.learning_rate: 0.01 -> 0.5" in str(error.value)
    assert "seed: 0 -> 5" in str(error.value)
    assert "--allow_config_change" in str(error.value)
    run, trained = Trainer(other, tmp_path, allow_config_change=True).train()
    assert trained
    assert int(run.state.step) == 24


def test_a_workdir_without_a_checkpoint_takes_another_config(experiment, tmp_path, monkeypatch):
    train_and_die(experiment, tmp_path, monkeypatch, after=3)
    Trainer(dataclasses.replace(experiment, batch_size=32, duration="6 steps"), tmp_path).train()
    assert open_run(tmp_path).program.experiment.batch_size == 32
    assert [line["step"] for line in read_metrics(tmp_path)] == [6, 6]


def test_the_batch_size_of_a_run_cannot_change(experiment, tmp_path, monkeypatch):
    """The schedule and the position in the data are counted in batches of one size."""
    train_and_die(experiment, tmp_path, monkeypatch, after=10)
    with pytest.raises(UserError, match="started with another batch_size"):
        Trainer(dataclasses.replace(experiment, batch_size=32), tmp_path, allow_config_change=True)


def test_the_batch_length_of_a_run_cannot_change(pairs, tmp_path, monkeypatch):
    train_and_die(pairs, tmp_path, monkeypatch, after=10)
    with pytest.raises(UserError, match="started with another batch_length"):
        Trainer(dataclasses.replace(pairs, batch_length=400), tmp_path, allow_config_change=True)


def test_a_batch_length_too_small_for_the_longest_examples_is_refused(pairs, tmp_path):
    with pytest.raises(UserError) as error:
        Trainer(dataclasses.replace(pairs, batch_length=191), tmp_path / "run")
    assert "config.batch_length: invalid value 191: expected at least 192" in str(error.value)
    assert "for 8 examples padded to (12, 12)" in str(error.value)
    assert not (tmp_path / "run").exists()
    Trainer(dataclasses.replace(pairs, batch_length=192), tmp_path / "run")


def test_a_checkpoint_of_another_model_is_kept(experiment, with_model, tmp_path):
    Trainer(experiment, tmp_path).train()
    other = Trainer(with_model(CNN(widths=(8,))), tmp_path, allow_config_change=True)
    with pytest.raises(UserError, match="to another model or optimizer: only one of the two has"):
        other.train()
    assert not Trainer(experiment, tmp_path, allow_config_change=True).train()[1]


def test_a_workdir_that_is_a_file_is_refused(experiment, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is a file; choose another path"):
        Trainer(experiment, tmp_path / "file" / "run")


def test_a_run_saved_before_a_key_was_added_opens(experiment, tmp_path):
    Trainer(experiment, tmp_path).train()
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    del config["ema_decay"]
    path.write_text(json.dumps(config))
    assert not Trainer(experiment, tmp_path).train()[1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 60, "mesh": MeshConfig(devices=8)}, "60 is not divisible by 8"),
        ({"mesh": MeshConfig(fsdp=3)}, "fsdp=3, tensor=1 do not multiply to 8 devices"),
        ({"mesh": MeshConfig(devices=9)}, "devices: invalid number 9: expected at most 8"),
        ({"mesh": MeshConfig(rules=(("Dnse", "fsdp"),))}, "'Dnse' matches no parameter"),
        (
            {"mesh": MeshConfig(rules=(("Dense_0/bias", ("data", None)),))},
            "cannot split Dense_0/bias",
        ),
        (
            {"duration": "0 steps"},
            "config.duration: invalid length 0: expected at least 1 step",
        ),
        ({"batch_length": 9}, "batch_length: invalid value 9: expected 0 for examples"),
        (
            {"optimizer": Optimizer(warmup="24 steps")},
            "config.duration: invalid length 24: expected",
        ),
        ({"duration": "ten epochs"}, "config.duration: invalid duration 'ten epochs'"),
        (
            {"optimizer": Optimizer(warmup="soon")},
            "config.optimizer.warmup: invalid duration 'soon'",
        ),
    ],
)
def test_an_invalid_config_is_refused_before_the_workdir_is_written(
    experiment, tmp_path, changes, message
):
    with pytest.raises(UserError) as error:
        Trainer(dataclasses.replace(experiment, **changes), tmp_path / "run")
    assert message in str(error.value)
    assert not (tmp_path / "run").exists()


def test_the_saved_config_is_the_resolved_one(experiment, tmp_path):
    Trainer(experiment, tmp_path).train()
    run = open_run(tmp_path)
    assert run.program.task == experiment.task.resolve()
    assert to_config_dict(run.program.experiment).task.type == "ImageClassification"


@pytest.mark.slow
def test_a_logged_metric_is_the_mean_since_the_last_log(experiment, tmp_path):
    warm = Optimizer(learning_rate=1e-2, warmup="12 steps", schedule="linear")
    Trainer(dataclasses.replace(experiment, optimizer=warm), tmp_path).train()
    rates = warm.resolve_schedule(total_steps=24, warmup_steps=12).build()
    lines = [line for line in read_metrics(tmp_path) if line["split"] == "train"]
    assert [line["step"] for line in lines] == [6, 12, 18, 24]
    for line in lines:
        expected = np.mean([rates(i) for i in range(line["step"] - 6, line["step"])])
        assert line["learning_rate"] == pytest.approx(float(expected), rel=1e-5)


def test_evaluation_uses_the_moving_average_of_the_parameters(experiment, tmp_path):
    """With a decay near 1 the average differs from the parameters."""
    slow = dataclasses.replace(experiment, ema_decay=0.9999, duration="4 steps")
    run, _ = Trainer(slow, tmp_path).train()
    dataset = run.program.task.dataset("validation")
    averaged, _ = evaluate(run.program, run.state, dataset)
    state = saved_state(tmp_path)
    plain, _ = evaluate(run.program, state.replace(ema=None).inference, dataset)
    swapped, _ = evaluate(run.program, state.replace(params=state.ema, ema=None).inference, dataset)
    assert averaged == swapped != plain


def test_a_state_that_is_not_finite_is_not_saved(experiment, tmp_path):
    """Between two log lines, the check before each checkpoint is the only one."""
    wild = Optimizer(name="sgd", learning_rate=1e30, schedule="constant")
    changed = dataclasses.replace(
        experiment, optimizer=wild, log_every="24 steps", evaluate_every="0 steps"
    )
    with pytest.raises(UserError, match=r"the loss is (nan|inf) at step 8"):
        Trainer(changed, tmp_path).train()
    assert not list((tmp_path / "checkpoints").iterdir())


def test_training_seconds_exclude_evaluation(experiment, tmp_path, monkeypatch):
    time = types.SimpleNamespace(now=0.0)
    time.perf_counter = lambda: time.now

    def slow(*args):
        time.now += 1000
        return evaluate(*args)

    monkeypatch.setattr("research.training.clock.time", time)
    monkeypatch.setattr("research.training.loop.evaluate", slow)
    run, _ = Trainer(experiment, tmp_path).train()
    assert time.now == 2000 and run.progress.seconds <= 0
