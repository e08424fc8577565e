"""The decoding config, and the language model that it selects."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import jax

from research.common.config import renamed_from
from research.common.errors import ConfigError
from research.data.tokenizers import Tokenizer
from research.tasks.speech_recognition.decoding.arpa import parse_arpa
from research.tasks.speech_recognition.decoding.beam_search import prefix_beam_search
from research.tasks.speech_recognition.decoding.greedy import Hypothesis, greedy_search
from research.tasks.speech_recognition.decoding.language_model import (
    LanguageModel,
    compile_language_model,
)
from research.tasks.speech_recognition.decoding.ngrams import estimate

TRANSCRIPTS = "transcripts"


@dataclass(frozen=True)
class Decoding:
    """Greedy search, or prefix beam search with a word n-gram language model."""

    beam_size: int = renamed_from("beam", default=1)
    """Number of hypotheses; 1 without a language model is greedy search."""

    tokens_per_frame: int = 16
    """Number of most probable tokens of a frame that may extend a hypothesis."""

    language_model: str = ""
    """Path of an ARPA file of word n-grams; "transcripts": estimate one on the training texts."""

    ngram_order: int = renamed_from("order", default=3)
    """Order n of the estimated n-grams."""

    language_model_weight: float = 0.5
    """Weight of the natural log-probabilities of words."""

    word_bonus: float = 0.0
    """Score added for each word, because language models favour short hypotheses."""

    arpa: str = ""
    """The estimated model as ARPA text; filled in, so that a run does not need its data."""

    def __post_init__(self):
        for key in ("beam_size", "tokens_per_frame", "ngram_order"):
            if getattr(self, key) < 1:
                problem = f"invalid number {getattr(self, key)}: expected at least 1"
                raise ConfigError(key, problem)
        if self.language_model not in ("", TRANSCRIPTS) and not Path(self.language_model).exists():
            problem = (
                f"missing file {self.language_model}: expected an ARPA file or '{TRANSCRIPTS}'"
            )
            raise ConfigError("language_model", problem)

    @property
    def is_resolved(self) -> bool:
        """Whether `resolve` has nothing to estimate."""
        return self.language_model != TRANSCRIPTS or bool(self.arpa)

    def resolve(self, texts: Iterable[str]) -> "Decoding":
        """Returns the config with a language model estimated on the texts, if it asks for one."""
        return self if self.is_resolved else replace(self, arpa=estimate(texts, self.ngram_order))

    def load(self, tokenizer: Tokenizer) -> LanguageModel | None:
        """Loads the language model as NumPy arrays; None if the config has none.

        Raises:
          UserError: the file is not a valid ARPA file.
        """
        if not self.language_model:
            return None
        estimated = self.language_model == TRANSCRIPTS
        arpa = parse_arpa(self.arpa if estimated else Path(self.language_model))
        return compile_language_model(
            arpa, tokenizer.encode, tokenizer.separator, tokenizer.starts_word
        )

    def __call__(
        self,
        log_probs: jax.Array,
        frames: jax.Array,
        capacity: int,
        language_model: LanguageModel | None,
    ) -> Hypothesis:
        """Returns the best hypothesis of each utterance.

        Args:
          log_probs: float32 [batch, frames, classes]; class 0 is the blank.
          frames: int32 [batch], number of valid frames.
          capacity: maximum number of tokens.
          language_model: the result of `load`.
        """
        if self.beam_size == 1 and language_model is None:
            return greedy_search(log_probs, frames, capacity)
        return prefix_beam_search(
            log_probs,
            frames,
            capacity,
            self.beam_size,
            self.tokens_per_frame,
            language_model,
            self.language_model_weight,
            self.word_bonus,
        )
