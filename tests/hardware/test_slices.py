import pytest

from research.common.errors import UserError
from research.hardware.slices import parse_slice


@pytest.mark.parametrize(
    ("name", "chips", "devices", "topology"),
    [
        ("v5e-16", 16, 16, "4x4"),
        ("v5litepod-16", 16, 16, "4x4"),
        ("v4-32", 16, 16, "2x2x4"),  # its number counts cores
        ("v3-32", 16, 32, "4x4"),  # a core is a device
        ("v3-64", 32, 64, "4x8"),
        ("v6e-256", 256, 256, "16x16"),
        ("tpu7x-8", 4, 8, "2x2x1"),
    ],
)
def test_a_name_gives_chips_devices_and_topology(name, chips, devices, topology):
    found = parse_slice(name)
    assert (found.num_chips, found.num_devices, found.topology) == (chips, devices, topology)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("v5e-17", "v5litepod-N counts chips, and N can be 1, 4, 8"),
        ("v8-4", "did you mean"),
        ("gpu", "expected one of v2-N"),
    ],
)
def test_unknown_slices_are_refused(name, message):
    with pytest.raises(UserError, match=message):
        parse_slice(name)
