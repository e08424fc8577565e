"""The recorded plans: every experiment has them, and no step became slower on a TPU."""

import importlib.util
import json
from pathlib import Path

import pytest

from research.common.errors import UserError
from research.hardware import compiler
from research.planning.record import guarded, planned, wanted

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
TABLE = EXPERIMENTS / "tpu.json"
TOLERANCE = 1.05


def test_every_experiment_is_planned_on_one_chip_of_four_generations():
    slices = {}
    for one in wanted(EXPERIMENTS):
        slices.setdefault(one.experiment, []).append(one.tpu_slice.name)
    files = {f"{path.parent.name}/{path.stem}" for path in EXPERIMENTS.glob("*/*.py")}
    assert set(slices) == files
    assert all(names[:4] == ["v4", "v5e-1", "v5p", "v6e-1"] for names in slices.values())


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
