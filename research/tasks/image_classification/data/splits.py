"""Deterministic hold-out splits."""

import numpy as np
from sklearn.model_selection import train_test_split

from research.common.errors import ConfigError


def hold_out_stratified(
    indices: np.ndarray, labels: np.ndarray, fraction: float
) -> tuple[np.ndarray, np.ndarray]:
    """Splits `indices` in two; the second part has the same `fraction` of each class.

    Args:
      indices: int [examples], positions in `labels`.
      labels: int [all examples].
      fraction: of the examples, in the second part.

    Raises:
      ConfigError: too few examples of a class.
    """
    try:
        kept, held_out = train_test_split(
            indices, test_size=fraction, stratify=labels[indices], random_state=0
        )
    except ValueError as error:
        problem = f"cannot hold out {fraction:.0%} of each class ({error}); add images"
        raise ConfigError("validation_fraction", problem) from None
    return kept, held_out


def hold_out_last(indices: np.ndarray, fraction: float) -> tuple[np.ndarray, np.ndarray]:
    """Splits `indices` in two; the second part is the last `fraction` of them."""
    kept, held_out = train_test_split(indices, test_size=fraction, shuffle=False)
    return kept, held_out
