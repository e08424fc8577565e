"""The TPU table, its prices, and its independence of JAX."""

import json
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from research.hardware import chips
from research.hardware.chips import Offer, Price, chip_of, cost, list_price, peak_flops

ROOT = Path(chips.__file__).parents[2]
TABLE = json.loads((ROOT / "research/hardware/chips.json").read_text())


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
def test_device_kind_identifies_the_generation(kind, generation):
    chip = chip_of(kind)
    assert chip is not None
    assert chip.generation == generation


@pytest.mark.parametrize("kind", [jax.devices("cpu")[0].device_kind, "NVIDIA H100 80GB HBM3", "v9"])
def test_other_device_kinds_have_no_chip(kind):
    assert chip_of(kind) is None


def test_the_peak_of_a_device_is_known_for_tpus_and_gpus():
    assert peak_flops("TPU v5 lite") == 197e12
    assert peak_flops("TPU v3") == 123e12 / 2  # a chip has two devices
    assert peak_flops("NVIDIA H100 80GB HBM3") == 989e12
    assert peak_flops("cpu") is None


def test_every_chip_has_plausible_facts():
    # JAX has such a table too, but no public function returns it, so typing errors are detected by
    # their order of magnitude and by the ratio of compute to bandwidth instead.
    for chip in chips.chips():
        assert chip.devices_per_chip in (1, 2)
        assert 40 <= chip.bf16_tflops <= 5000, chip.generation
        assert 16 <= chip.hbm_gib <= 512, chip.generation
        operations_per_byte = chip.bf16_tflops * 1e12 / (chip.hbm_gb_per_s * 1e9)
        assert 50 <= operations_per_byte <= 700, chip.generation
    kinds = [kind for chip in chips.chips() for kind in chip.device_kinds]
    assert len(set(kinds)) == len(kinds)


def test_the_cost_counts_chips_instead_of_devices():
    on_16_chips = cost(1800, "TPU v5 lite", 16)
    assert on_16_chips["dollars_per_hour"] == pytest.approx(16 * 1.716)
    assert on_16_chips["dollars"] == pytest.approx(8 * 1.716)
    assert "southamerica-west1" in on_16_chips["price"]
    assert cost(3600, "TPU v3", 8)["dollars"] == pytest.approx(4 * 2.2)


@pytest.mark.parametrize("kind", ["cpu", "TPU7x"])
def test_an_unknown_price_gives_no_cost(kind):
    assert cost(3600, kind, 4) == {}


def test_the_price_of_a_zone_is_the_highest_known_if_its_own_is_unknown():
    low, high = (Price(dollars, "r", "2026-01-01", "s") for dollars in (1.0, 2.0))
    offers = [
        Offer(("a",), "any", on_demand=low, spot=None),
        Offer(("b",), "any", on_demand=high, spot=low),
        Offer(("c",), "any", on_demand=None, spot=None),
    ]
    assert list_price(offers, "a") == low
    assert list_price(offers, "a", spot=True) == low
    assert list_price(offers, "c") == list_price(offers) == high
    assert list_price(offers[2:], "c") is None


def test_launcher_and_table_need_only_the_standard_library():
    # -S leaves site-packages out, where JAX and every other dependency is installed.
    command = [sys.executable, "-S", "-c", "import launch.tpu, research.hardware.chips"]
    subprocess.run(command, cwd=ROOT, check=True)


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
    assert set(sources([TABLE["generations"], TABLE["processors"]])) == set(TABLE["sources"])
    assert all(len(source["read"].split("-")) == 3 for source in TABLE["sources"].values())
