import pytest

from research.common.errors import UserError
from research.training.duration import in_steps


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("20 epochs", 240),
        ("1 epoch", 12),
        ("0.5 epochs", 6),
        ("100_000 steps", 100_000),
        ("1_000 examples", 10),
        ("5%", 50),
        ("10 percent", 100),
        ("0 steps", 0),
        ("0.001 epochs", 1),
        ("0.9 epochs", 11),
        ("1_080 examples", 11),
        ("20_epochs", 240),
        ("20epochs", 240),
        ("1_Epoch", 12),
        ("0.5_epochs", 6),
        ("100_000_steps", 100_000),
        ("1_000examples", 10),
        ("10_percent", 100),
    ],
)
def test_a_duration_is_converted_to_steps(text, steps):
    assert in_steps(text, batch_size=100, steps_per_epoch=12, total=1000) == steps


@pytest.mark.parametrize(
    "text", ["20", "epochs", "20 parsecs", "-3 steps", "_3_steps", "1e3 steps", ""]
)
def test_an_invalid_duration_is_refused_with_an_example(text):
    with pytest.raises(UserError, match=r"invalid duration .*: expected e.g. '20 epochs'"):
        in_steps(text, batch_size=100, steps_per_epoch=12, total=1000)


def test_a_percentage_needs_the_length_of_the_run():
    with pytest.raises(UserError, match="invalid duration '50%'"):
        in_steps("50%", batch_size=100, steps_per_epoch=12)
