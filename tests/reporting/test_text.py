import pytest

from research.reporting.text import duration, shorten


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0 s"),
        (59.97, "60.0 s"),
        (116, "116.0 s"),
        (119.97, "2.0 min"),
        (203, "3.4 min"),
        (7199, "2.0 h"),
        (18720, "5.2 h"),
        (86400 * 1234.5, "1,234.5 days"),
    ],
)
def test_a_duration_has_the_largest_unit_of_which_it_has_two(seconds, text):
    assert duration(seconds) == text


def test_long_values_are_truncated():
    assert shorten("a" * 200) == "a" * 200
    assert shorten("a" * 1201) == "a" * 200 + "... (1,201 characters)"
