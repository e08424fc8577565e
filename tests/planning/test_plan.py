"""Plans by the TPU compiler, where it is installed, and sizes without data."""

import dataclasses
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from research.common.errors import UserError
from research.hardware import compiler
from research.hardware.slices import parse_slice
from research.planning.plan import Plan, Subject, plan, subject
from research.planning.remedies import find_remedy
from research.planning.table import format_plan
from research.tasks.image_classification.models import CNN, MLP
from research.training.experiment import load_experiment
from research.training.program import Program

ROOT = Path(__file__).parents[2]
EXPERIMENTS = sorted((ROOT / "experiments").glob("*/*.py"))
needs_compiler = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed; `make plan` does"
)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.mark.slow
@pytest.mark.usefixtures("standard_promotion")
@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_the_step_of_every_experiment_has_its_shapes_without_data(path):
    experiment = load_experiment(path, ["mesh.devices=1"])
    task = experiment.task.resolve_without_data()
    experiment = dataclasses.replace(experiment, task=task)
    what = Subject(experiment, (), None)
    program = Program(experiment, what.lengths.schedule(), jax.devices())
    assert jax.tree.leaves(program.state_shape.params)
    assert jax.eval_shape(program.train_step, program.state_shape, program.batch_shape())


def test_missing_data_are_replaced_by_sizes_that_are_named(experiment):
    source = load_experiment(ROOT / "experiments/image_classification/my_images.py").task.source
    task = dataclasses.replace(experiment.task, source=source, mean=(0.5,), std=(0.5,))
    what = subject(dataclasses.replace(experiment, task=task))
    assert what.experiment.task.num_classes == 100
    assert any(key.startswith("task.source.class_names") for key in what.assumed)
    assert what.examples is None


def test_embedded_data_are_used(experiment):
    what = subject(experiment)
    assert what.assumed == ()
    assert what.examples == len(experiment.task.training())
    assert subject(experiment, examples=10).examples == 10


def test_without_the_compiler_the_command_names_the_remedy():
    if importlib.util.find_spec("libtpu"):
        pytest.skip("libtpu is installed")
    with pytest.raises(UserError, match=r"missing package libtpu.*make plan"):
        compiler.version()


def test_what_the_compiler_says_of_memory_is_read():
    error = compiler.DoesNotFit(
        "RESOURCE_EXHAUSTED: E1000: CompileTimeHbmOom: Ran out of memory on HBM, the total memory "
        "required for HLO temporaries (70.06G) exceeds available HBM (15.75G)."
    )
    assert error.needed == pytest.approx(70.06 * 2**30)
    assert error.available == pytest.approx(15.75 * 2**30)
    assert compiler.DoesNotFit("RESOURCE_EXHAUSTED").needed == 0


def test_a_plan_that_does_not_fit_is_one_line(experiment):
    found = Plan(
        "v5e-1", "train", 1, fits=False, hbm_bytes=15.75 * 2**30, needed_bytes=70.06 * 2**30
    )
    text = format_plan(found, parse_slice("v5e-1"), subject(experiment))
    assert text.splitlines()[1] == "  does not fit: 70.06 GiB of 15.75 GiB per device"


@needs_compiler
@pytest.mark.slow
def test_a_plan_counts_the_products_of_the_model(with_model):
    """An MLP has 6 operations per weight and example, but 4 in its first layer."""
    experiment = dataclasses.replace(with_model(MLP(widths=(256, 256))), batch_size=512)
    what = subject(experiment)
    found = plan(what, parse_slice("v5e-1"))
    weights = (64 * 256, 256 * 256, 256 * 10)
    expected = 512 * (6 * sum(weights) - 2 * weights[0])
    assert found.fits and found.flops == pytest.approx(expected, rel=0.01)
    assert 0 < found.needed_bytes < 2**30
    json.dumps(dataclasses.asdict(found))
    # The second time it comes from the cache.
    assert plan(what, parse_slice("v5e-1")) == found


@needs_compiler
@pytest.mark.slow
def test_sharded_parameters_are_gathered_over_their_axis(with_model):
    experiment = with_model(CNN(widths=(128,)))
    mesh = dataclasses.replace(experiment.mesh, devices=-1, fsdp=2)
    found = plan(subject(dataclasses.replace(experiment, mesh=mesh)), parse_slice("v5e-4"))
    assert found.devices == 4
    assert {one["axes"] for one in found.collectives} <= {"data", "fsdp", "data+fsdp"}
    assert any(one["opcode"] == "all-reduce" for one in found.collectives)
    assert found.collective_seconds > 0


@needs_compiler
@pytest.mark.slow
def test_a_batch_that_does_not_fit_has_a_remedy(with_model):
    experiment = with_model(MLP(widths=(2**16,)))
    what = subject(dataclasses.replace(experiment, batch_size=2**16))
    found = plan(what, parse_slice("v5e-1"))
    assert not found.fits and found.needed_bytes > found.hbm_bytes > 15 * 2**30
    change, remedy = find_remedy(what, parse_slice("v5e-1"))
    assert change.startswith("--config.gradient_accumulation_steps=") and remedy.fits


@needs_compiler
@pytest.mark.slow
def test_the_command_prints_a_line_of_json_per_slice():
    command = [sys.executable, "-m", "research.plan", "--slice=v5e-1,v6e-4", "--json"]
    config = "--config=experiments/image_classification/digits_mlp.py"
    done = subprocess.run([*command, config], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["slice"] for row in rows] == ["v5e-1", "v6e-4"]
    assert all(row["fits"] and row["step_seconds"] > 0 < row["run_dollars"] for row in rows)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--slice=v5e-17"], "N can be 1, 4, 8"),
        (["--slice=v6e-8", "--config.batch_size=12"], "12 is not divisible by 8"),
    ],
)
@needs_compiler
@pytest.mark.slow
def test_invalid_slices_and_batches_are_refused(flags, message):
    config = "--config=experiments/image_classification/digits_mlp.py"
    command = [sys.executable, "-m", "research.plan", config, *flags]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert message in done.stderr and done.stderr.count("\n") == 1
