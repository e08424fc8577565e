"""The ranges of sizes and rates; a model of the user's own has its own ranges."""

from typing import Any

import pytest
from flax import linen as nn

from research.common.config import not_configured
from research.common.errors import ConfigError
from research.layers.ranges import check_ranges
from research.tasks.image_classification.models import MLP
from research.tasks.image_classification.task import ImageClassification


class Own(nn.Module):
    axis: int = -1
    shifts: tuple[int, ...] = (-2, 0, 2)
    offset: int = 3
    dropout: Any = None
    num_classes: int = not_configured(0)
    dtype: Any = not_configured(None)

    def __call__(self, images, train):
        return images


@pytest.mark.parametrize("model", [Own(), Own(offset=-3, dropout="half")])
def test_the_numbers_of_a_model_of_ones_own_have_any_range(model):
    check_ranges(model)
    assert ImageClassification(model=model).model == model


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"widths": (8, 0)}, r"config.widths: invalid value \(8, 0\): expected at least 1"),
        ({"dropout": 1.0}, r"config.dropout: invalid rate 1.0: expected a number in \[0, 1\)"),
    ],
)
def test_sizes_and_rates_of_the_projects_models_are_checked(fields, message):
    check_ranges(MLP())
    with pytest.raises(ConfigError, match=message):
        check_ranges(MLP(**fields))
