"""The table of chips, and what research reads in it."""

import json
from pathlib import Path
from types import SimpleNamespace

import jax
import pytest

from research.hardware import chips
from research.hardware.chips import chip_of, cost

TABLE = json.loads((Path(chips.__file__).parent / "chips.json").read_text())


def devices(monkeypatch, kind, count):
    monkeypatch.setattr(jax, "devices", lambda: [SimpleNamespace(device_kind=kind)] * count)


@pytest.mark.parametrize(
    ("kind", "generation"),
    [
        ("TPU v2", "v2"),
        ("TPU v3", "v3"),
        ("TPU v4", "v4"),
        ("TPU v5 lite", "v5e"),
        ("TPU v5p", "v5p"),
        ("TPU v6 lite", "v6e"),
        ("TPU7x", "tpu7x"),
    ],
)
def test_a_device_is_known_by_what_jax_calls_it(kind, generation):
    chip = chip_of(kind)
    assert chip is not None
    assert chip.generation == generation


@pytest.mark.parametrize("kind", ["cpu", "NVIDIA H100 80GB HBM3", "TPU v99"])
def test_other_devices_are_not(kind):
    assert chip_of(kind) is None


def test_every_chip_has_the_facts_that_jax_has():
    tpu_info = pytest.importorskip("jax._src.pallas.mosaic.tpu_info")
    for chip in chips.chips():
        version = tpu_info.chip_version_from_device_kind(chip.device_kinds[0])
        cores = version.num_physical_tensor_cores_per_chip
        info = tpu_info._get_tpu_info_impl(version, 1)
        # Google's pages and JAX differ by up to 14% for the oldest and v5p.
        assert chip.bf16_tflops == pytest.approx(info.bf16_ops_per_second * cores / 1e12, rel=0.15)
        assert chip.hbm_gb_per_s == pytest.approx(
            info.mem_bw_bytes_per_second * cores / 1e9, rel=0.15
        )
        assert chip.hbm_gib == pytest.approx(info.hbm_capacity_bytes * cores / 2**30, rel=0.08)


def test_the_cost_counts_chips_not_devices(monkeypatch):
    devices(monkeypatch, "TPU v5 lite", 16)
    on_16_chips = cost(1800)
    assert on_16_chips["dollars_per_hour"] == pytest.approx(16 * 1.2)
    assert on_16_chips["dollars"] == pytest.approx(8 * 1.2)
    assert "us-central1" in on_16_chips["price"]
    devices(monkeypatch, "TPU v3", 8)
    assert cost(3600)["dollars"] == pytest.approx(4 * 2.0)


@pytest.mark.parametrize("kind", ["cpu", "TPU7x"])
def test_where_no_price_is_known_none_is_told(monkeypatch, kind):
    devices(monkeypatch, kind, 4)
    assert cost(3600) == {}


def test_every_block_of_facts_names_its_source_and_every_source_is_dated():
    def sources(value):
        if isinstance(value, dict):
            yield from [value["source"]] if "source" in value else []
            value = list(value.values())
        if isinstance(value, list):
            for one in value:
                yield from sources(one)

    for generation in TABLE["generations"]:
        blocks = [value for value in generation.values() if isinstance(value, dict)]
        assert all("source" in block for block in [*blocks, *generation["offers"]])
    assert set(sources(TABLE["generations"])) == set(TABLE["sources"])
    assert all(len(source["read"].split("-")) == 3 for source in TABLE["sources"].values())
