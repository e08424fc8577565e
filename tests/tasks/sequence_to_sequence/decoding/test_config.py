import pytest

from research.common.config import from_config_dict
from research.common.errors import ConfigError
from research.tasks.sequence_to_sequence.decoding import Decoding


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"beam_size": 0}, "config.beam_size: invalid number 0: expected at least 1"),
        (
            {"length_penalty": -1.0},
            "config.length_penalty: invalid number -1.0: expected at least 0",
        ),
        (
            {"beam_size": 2, "n_best": 5},
            "config.n_best: invalid number 5: expected at most beam_size=2",
        ),
    ],
)
def test_invalid_values_are_refused(values, message):
    with pytest.raises(ConfigError, match=message):
        Decoding(**values)


def test_saved_configs_with_former_keys_open():
    saved = {"beam": 4, "n_best": 2, "length_factor": 2.0, "length_margin": 3}
    assert from_config_dict(Decoding, saved) == Decoding(4, 2, 0.6, 2.0, 3)


def test_a_change_of_a_saved_config_wins_over_its_former_key():
    """`predict --beam=8` adds the new key behind the old one."""
    assert from_config_dict(Decoding, {"beam": 4, "beam_size": 8}).beam_size == 8


def test_the_output_may_grow_with_the_source():
    assert Decoding(max_length_ratio=1.5, max_length_offset=10).max_length(5) == 17
