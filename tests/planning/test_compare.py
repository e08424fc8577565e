"""One experiment on all kinds of chips, and the README's tables of plans."""

import json
from pathlib import Path

import pytest

from research.common.errors import UserError
from research.hardware.chips import Price, Processor, chips, processors
from research.hardware.slices import one_chip
from research.planning import compare
from research.planning.markdown import replace_tables, tables
from research.planning.plan import Plan, subject
from research.planning.record import markdown, recorded_cells
from research.tasks.image_classification.models import MLP

ROOT = Path(__file__).parents[2]
PRICE = Price(3.6, "here", "2026-11-27", "a test")
GPU = Processor("GPU", 100.0, 16.0, 500.0, 300.0, PRICE)


def plan_of(**fields):
    return Plan("v5e-1", "train", 1, fits=True, hbm_bytes=2**34, **fields)


def test_the_bound_is_the_slower_of_products_and_memory():
    products = plan_of(flops=1e12, traffic_bytes=1e9, needed_bytes=1e9)  # 10 ms and 2 ms
    assert compare.bound(products, GPU, 50).examples_per_second == pytest.approx(50 / 10e-3)
    memory = plan_of(flops=1e12, traffic_bytes=1e10, needed_bytes=1e9)  # 10 ms and 20 ms
    cell = compare.bound(memory, GPU, 50)
    assert cell.examples_per_second == pytest.approx(50 / 20e-3)
    assert cell.dollars == pytest.approx(0.001 * 1e6 / 2500)
    assert cell.kilowatt_hours == pytest.approx(0.3 / 3600 * 1e6 / 2500)


def test_what_does_not_fit_has_no_rate_and_no_price():
    cell = compare.bound(plan_of(flops=1e12, needed_bytes=17e9), GPU, 50)
    assert (cell.fits, cell.examples_per_second, cell.dollars) == (False, 0.0, None)
    assert "does not fit" in compare.format_cells([cell])


def test_a_chip_has_the_price_of_its_smallest_slice():
    v5e = next(chip for chip in chips() if chip.generation == "v5e")
    result = plan_of(kernel_seconds=0.01)
    cell = compare.compiled(result, one_chip(v5e), 50)
    assert cell.chip == "v5e-1" and cell.basis == "compiled"
    assert cell.examples_per_second == pytest.approx(5000)
    assert {one_chip(chip).num_chips for chip in chips()} == {1}
    assert all(one_chip(chip).offers for chip in chips())


def test_processors_have_plausible_peaks():
    names = [one.name for one in processors()]
    assert "NVIDIA H100" in names and len(set(names)) == len(names)
    for one in processors():
        assert 0 < one.gb_per_s < 10_000 and 1 < one.tflops < 10_000 and one.price


def test_the_machine_at_hand_is_measured(with_model):
    cell = compare.measure(subject(with_model(MLP(widths=(8,)))))
    assert cell.basis == "measured" and cell.fits and cell.examples_per_second > 0


def test_a_machine_whose_memory_does_not_suffice_has_no_rate(with_model, monkeypatch):
    monkeypatch.setattr("research.training.memory.available_bytes", lambda device: 1e3)
    cell = compare.measure(subject(with_model(MLP(widths=(8,)))))
    assert (cell.basis, cell.fits, cell.examples_per_second) == ("measured", False, 0.0)


@pytest.fixture
def plans():
    numbers = {"fits": True, "batch_size": 64, "step_seconds": 0.0123456, "run_seconds": 7200.0}
    one = numbers | {"run_dollars": None}
    large = numbers | {"run_dollars": 1234.5}
    return {
        "a/b": {"v4": one, "v5e-1": {"failure": "a crash"}, "v5e-16": large},
        "transfer/c": {"v4": one | {"fits": False}, "v5e-1": one},
        "a/d": {},
    }


def test_tables_of_the_readme(plans, tmp_path):
    cell = compare.bound(plan_of(flops=1e12, needed_bytes=1e9), GPU, 12345).to_json()
    text = tables(plans, {"a/b": [dict(cell, basis="measured", chip="here"), cell], "a/d": []})
    assert "| GPU | roofline | 1,230,000/s, $0.00081 |  |" in text
    assert text.index("| GPU |") < text.index("| here |")
    assert "| b | v5e-16 | 64 | 12.3 ms | 2.0 h | $1,234 |" in text
    assert "| `b` | 12.3 ms | no plan |" in text
    assert "| `transfer/c` | does not fit | 12.3 ms |" in text
    readme = tmp_path / "README.md"
    readme.write_text("before\n")
    with pytest.raises(UserError, match="missing comments"):
        replace_tables(readme, text)
    begin, end = "<!-- `make plan-all` writes these tables -->", "<!-- end of the tables -->"
    readme.write_text(f"before\n{begin}\nold\n{end}\nafter\n")
    replace_tables(readme, text)
    replace_tables(readme, text)
    assert readme.read_text() == f"before\n{begin}\n{text}\n{end}\nafter\n"


def test_the_readme_shows_the_recorded_plans():
    recorded = ROOT / "experiments" / "tpu.json"
    if not recorded.exists():
        pytest.skip("no table yet; `make plan-all` writes it")
    text = markdown(ROOT / "experiments", json.loads(recorded.read_text()))
    assert text in (ROOT / "README.md").read_text()


def test_recorded_plans_give_the_cells_of_all_chips():
    raw = {"fits": True, "needed_bytes": 1e9, "flops": 1e12, "traffic_bytes": 1e9}
    row = raw | {"kernel_seconds": 0.01, "collective_seconds": 0.0, "batch_size": 50}
    cells = {
        cell["chip"]: cell for cell in recorded_cells({"v4": row, "v5e-1": row, "v5e-16": row})
    }
    assert {"v4", "v5e-1", "NVIDIA H100"} <= set(cells) and "v5e-16" not in cells
    assert cells["v4"]["examples_per_second"] == 5000
    assert recorded_cells({}) == []
