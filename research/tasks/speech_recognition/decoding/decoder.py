"""The config of decoding, and the language model that goes with it."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import jax

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
    """How tokens are found in the scores of the frames."""

    beam: int = 1
    """Hypotheses that are followed; 1 without a language model is greedy decoding."""

    tokens_per_frame: int = 16
    """The most probable tokens of a frame that may extend a hypothesis."""

    language_model: str = ""
    """An ARPA file of word n-grams, or "transcripts": one is estimated on the training texts."""

    order: int = 3
    """The n of the n-grams that are estimated."""

    language_model_weight: float = 0.5
    """Of the natural log-probabilities of the words."""

    word_bonus: float = 0.0
    """Added for each word: language models make hypotheses short."""

    arpa: str = ""
    """The estimated model itself, as ARPA text, so that a run is complete without its data."""

    def __post_init__(self):
        for key in ("beam", "tokens_per_frame", "order"):
            if getattr(self, key) < 1:
                raise ConfigError(key, f"must be at least 1, is {getattr(self, key)}")
        if self.language_model not in ("", TRANSCRIPTS) and not Path(self.language_model).exists():
            problem = f"there is no {self.language_model}; name an ARPA file or '{TRANSCRIPTS}'"
            raise ConfigError("language_model", problem)

    @property
    def is_resolved(self) -> bool:
        """Whether nothing is missing that the training texts would tell."""
        return self.language_model != TRANSCRIPTS or bool(self.arpa)

    def resolve(self, texts: Iterable[str]) -> "Decoding":
        """With a language model estimated on the texts, if it is to be one."""
        return self if self.is_resolved else replace(self, arpa=estimate(texts, self.order))

    def load(self, tokenizer: Tokenizer) -> LanguageModel | None:
        """The language model, on the host; None where there is none.

        Raises:
          UserError: the file is no ARPA file.
        """
        if not self.language_model:
            return None
        own = self.language_model == TRANSCRIPTS
        arpa = parse_arpa(self.arpa if own else Path(self.language_model))
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
        """The best hypothesis of each utterance.

        Args:
          log_probs: float32 [batch, frames, classes], class 0 the blank.
          frames: int32 [batch], how many are valid.
          capacity: of the result, in tokens.
          language_model: as `load` gives it.
        """
        if self.beam == 1 and language_model is None:
            return greedy_search(log_probs, frames, capacity)
        return prefix_beam_search(
            log_probs,
            frames,
            capacity,
            self.beam,
            self.tokens_per_frame,
            language_model,
            self.language_model_weight,
            self.word_bonus,
        )
