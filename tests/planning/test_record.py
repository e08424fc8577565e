"""The recorded plans: every experiment has them, and no step became slower on a TPU."""

import importlib.util
import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from research.common.errors import UserError
from research.hardware import compiler
from research.hardware.slices import parse_slice
from research.planning import record
from research.planning.plan import Plan, subject
from research.planning.record import numbers, planned, recorded_plan
from research.planning.wanted import Wanted, guarded, wanted

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
TABLE = EXPERIMENTS / "tpu.json"
TOLERANCE = 1.05


def test_every_experiment_is_planned_on_one_chip_of_four_generations():
    slices = {}
    for one in wanted(EXPERIMENTS):
        slices.setdefault(one.experiment, []).append(one.tpu_slice.name)
    files = {f"{path.parent.name}/{path.stem}" for path in EXPERIMENTS.glob("*/*.py")}
    assert set(slices) == files
    assert all(set(names) >= {"v4", "v5e-1", "v5p", "v6e-1"} for names in slices.values())
    order = [one.tpu_slice.name for one in wanted(EXPERIMENTS)]
    assert order[0] == "v5e-1" and order.index("v6e-1") == len(files) < order.index("v4")


def test_a_row_is_kept_while_its_program_is_the_same(experiment, monkeypatch):
    tpu_slice, predicted = parse_slice("v5e-1"), []
    what = subject(experiment)
    result = Plan("v5e-1", "train", 1, fits=True, hbm_bytes=1.0, flops=2e9, kernel_seconds=1e-3)
    monkeypatch.setattr(record, "_subject", lambda *_: what)
    monkeypatch.setattr(record, "lower_step", lambda *_: SimpleNamespace(fingerprint="a"))
    monkeypatch.setattr(record, "predict_cost", lambda step: predicted.append(step) or result)
    one = Wanted("a/b", tpu_slice, (), None)
    first = planned(EXPERIMENTS, one)
    assert planned(EXPERIMENTS, one, first) == first and len(predicted) == 1
    planned(EXPERIMENTS, one, first | {"program": "b"})
    assert len(predicted) == 2
    assert numbers(recorded_plan(first, tpu_slice), tpu_slice, what).items() <= first.items()


def test_an_unknown_experiment_is_refused(tmp_path):
    (tmp_path / "plans.toml").write_text('compare = []\n[guard]\n"a/b" = []\n')
    with pytest.raises(UserError, match="unknown experiment 'a/b'"):
        wanted(tmp_path)


@pytest.mark.slow
@pytest.mark.usefixtures("standard_promotion")
@pytest.mark.skipif(not TABLE.exists(), reason="no table yet; `make plan-all` writes it")
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed")
@pytest.mark.parametrize("one", guarded(EXPERIMENTS), ids=lambda one: one.experiment)
def test_no_step_is_slower_on_a_tpu_than_recorded(one, tmp_path, monkeypatch):
    """`make plan-all` records new predictions, after a change that is worth its price."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    table = json.loads(TABLE.read_text())
    if table["versions"]["libtpu"] != compiler.version():
        pytest.skip("recorded with another version of libtpu")
    now, recorded = planned(EXPERIMENTS, one), table["guard"][one.experiment]
    assert now["step_seconds"] <= TOLERANCE * recorded["step_seconds"]
