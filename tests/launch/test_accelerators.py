"""Accelerator types: their facts, their prices, and the errors for invalid ones."""

import pytest

from launch.accelerators import parse
from research.common.errors import UserError
from research.hardware.chips import chips
from research.hardware.slices import accelerator_types


@pytest.mark.parametrize(
    ("name", "generation", "chips", "hosts", "api"),
    [
        ("v2-8", "v2", 4, 1, "tpu"),
        ("v2-32", "v2", 16, 4, "tpu"),
        ("v3-2048", "v3", 1024, 256, "tpu"),
        ("v4-8", "v4", 4, 1, "tpu"),
        ("v4-32", "v4", 16, 4, "tpu"),
        ("v5litepod-1", "v5e", 1, 1, "tpu"),
        ("v5litepod-8", "v5e", 8, 1, "tpu"),
        ("v5litepod-16", "v5e", 16, 4, "tpu"),
        ("v5p-8", "v5p", 4, 1, "tpu"),
        ("v5p-128", "v5p", 64, 16, "tpu"),
        ("v6e-4", "v6e", 4, 1, "tpu"),
        ("v6e-256", "v6e", 256, 64, "tpu"),
        ("tpu7x-2", "tpu7x", 1, 1, "compute"),
        ("tpu7x-8", "tpu7x", 4, 1, "compute"),
        ("tpu7x-128", "tpu7x", 64, 16, "compute"),
    ],
)
def test_the_suffix_counts_cores_or_chips(name, generation, chips, hosts, api):
    slice_ = parse(name)
    assert (slice_.generation, slice_.chips, slice_.hosts, slice_.api) == (
        generation,
        chips,
        hosts,
        api,
    )


def every_slice():
    for chip in chips():
        for name in accelerator_types(chip):
            yield parse(name)


def test_every_accelerator_type_has_all_facts():
    for slice_ in every_slice():
        assert slice_.runtime_version, slice_.name
        assert slice_.zones, slice_.name
        assert (slice_.machine_type is not None) == (slice_.api == "compute")
        if slice_.topology:
            product = 1
            for length in slice_.topology.split("x"):
                product *= int(length)
            assert product == slice_.chips, slice_.name
        else:
            assert slice_.api == "tpu", slice_.name  # Compute Engine needs a topology


def test_a_single_chip_has_its_own_machine_type():
    assert parse("tpu7x-2").machine_type == "tpu7x-standard-1t"
    assert parse("tpu7x-16").machine_type == "tpu7x-standard-4t"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("v5e-16", "did you mean 'v5litepod-16'"),
        ("v5lite-16", "did you mean 'v5litepod-16'"),
        ("v7x-8", "did you mean 'tpu7x-8'"),
        ("tpu-v6e-8", "did you mean 'v6e-8'"),
        ("v6e-8x", "did you mean 'v6e-8'"),
        ("H100", "unknown accelerator type 'H100': expected one of v2-N, v3-N"),
        ("", "expected one of v2-N"),
    ],
)
def test_an_unknown_type_suggests_the_nearest_one(name, message):
    with pytest.raises(UserError) as refused:
        parse(name)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("v5litepod-17", "counts chips, and N can be 1, 4, 8, 16, 32, 64, 128, 256"),
        ("v6e-08", "N can be 1, 4, 8"),
        ("v5p-24", "counts cores, and N can be 8, 16, 32, "),
        ("v5p-24", "1024, ... 12288"),
    ],
)
def test_an_invalid_size_lists_the_valid_ones(name, message):
    with pytest.raises(UserError) as refused:
        parse(name)
    assert message in str(refused.value)


def test_an_invalid_zone_lists_the_valid_ones():
    parse("v4-8").check_zone("us-central2-b")
    with pytest.raises(UserError, match=r"offered in us-central2-b$"):
        parse("v4-8").check_zone("us-central1-a")


def test_v2_offers_single_hosts_and_larger_slices_in_different_zones():
    parse("v2-8").check_zone("us-central1-b")
    parse("v2-32").check_zone("us-central1-a")
    with pytest.raises(UserError):
        parse("v2-32").check_zone("us-central1-b")


def test_the_price_is_that_of_the_zone():
    price = parse("v6e-16").price("us-east5-b")
    assert (price.dollars, price.region) == (2.7, "us-east5")
    assert price.date
    assert "skypilot-catalog" in price.source
    assert parse("v6e-16").price("us-east5-b", spot=True).dollars == 1.35
    assert parse("v6e-16").price("europe-west4-a").dollars == 2.97


def test_v2_single_hosts_and_larger_slices_have_different_prices():
    assert parse("v2-8").price("europe-west4-a").dollars == 1.2375
    assert parse("v2-32").price("europe-west4-a").dollars == 1.5


def test_a_zone_without_a_price_has_the_highest_known_price_and_its_region():
    price = parse("v6e-8").price("southamerica-west1-a", spot=True)
    assert (price.dollars, price.region) == (2.27, "asia-south1")


def test_an_unknown_price_is_none():
    assert parse("tpu7x-8").price("us-central1-c") is None
