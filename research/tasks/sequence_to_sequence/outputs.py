"""Outputs of the network in the form that figures show."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

MAX_TOKENS = 30  # of a side of an attention matrix: half a page wide with the smallest cells
EOS_SYMBOL = "↵"


class Attention(NamedTuple):
    """One output with its attention weights."""

    source: str
    output: str
    verdict: str  # on the output; "" for none
    correct: bool
    columns: Sequence[str]  # source tokens
    rows: Sequence[str]  # output tokens
    weights: np.ndarray  # [rows, columns]


class Translation(NamedTuple):
    """One translation with its references."""

    heading: str
    source: str
    references: Sequence[str]
    output: str
