"""The config of decoding."""

from dataclasses import dataclass

from research.common.errors import ConfigError


@dataclass(frozen=True)
class Decoding:
    """How an output is found among all that could be written."""

    beam: int = 1
    """Hypotheses that are followed; 1 is greedy decoding."""

    n_best: int = 1
    """Hypotheses that are kept of each input."""

    length_penalty: float = 0.6
    """The greater, the more long hypotheses are favoured (the alpha of Wu et al. 2016)."""

    length_factor: float = 1.5
    """An output has at most so many tokens for each one of its input, as it is padded, and
    `length_margin` more."""

    length_margin: int = 10
    """Tokens that an output may have beyond that."""

    def __post_init__(self):
        for key in ("beam", "n_best", "length_margin"):
            if getattr(self, key) < 1:
                raise ConfigError(key, f"must be at least 1, is {getattr(self, key)}")
        for key in ("length_penalty", "length_factor"):
            if getattr(self, key) < 0:
                raise ConfigError(key, f"must not be negative, is {getattr(self, key)}")
        if self.n_best > self.beam:
            raise ConfigError("n_best", f"{self.n_best} cannot be had of a beam of {self.beam}")

    def capacity(self, length: int) -> int:
        """Tokens that an output may have where the input has so many, both with their ends."""
        return int(self.length_factor * length) + self.length_margin
