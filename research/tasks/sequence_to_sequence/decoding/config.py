"""The config of decoding."""

from dataclasses import dataclass

from research.common.config import renamed_from
from research.common.errors import ConfigError


@dataclass(frozen=True)
class Decoding:
    """Beam search for the output with the highest score."""

    beam_size: int = renamed_from("beam", default=1)
    """Number of hypotheses kept while decoding; 1 is greedy decoding."""

    n_best: int = 1
    """Number of hypotheses returned for each input."""

    length_penalty: float = 0.6
    """Exponent alpha of the length normalisation (Wu et al. 2016); larger favours long outputs."""

    max_length_ratio: float = renamed_from("length_factor", default=1.5)
    """An output has at most this many tokens per token of its padded input, plus
    `max_length_offset`."""

    max_length_offset: int = renamed_from("length_margin", default=10)
    """Number of tokens added to that limit."""

    def __post_init__(self):
        for key in ("beam_size", "n_best", "max_length_offset"):
            if getattr(self, key) < 1:
                raise ConfigError(key, f"invalid number {getattr(self, key)}: expected at least 1")
        for key in ("length_penalty", "max_length_ratio"):
            if getattr(self, key) < 0:
                raise ConfigError(key, f"invalid number {getattr(self, key)}: expected at least 0")
        if self.n_best > self.beam_size:
            expected = f"expected at most beam_size={self.beam_size}"
            raise ConfigError("n_best", f"invalid number {self.n_best}: {expected}")

    def max_length(self, source_length: int) -> int:
        """Returns the greatest length of an output; both lengths include the end of sequence."""
        return int(self.max_length_ratio * source_length) + self.max_length_offset
