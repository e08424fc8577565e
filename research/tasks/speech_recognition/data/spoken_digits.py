"""Strings of digits in synthetic voices; no download is needed."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import soxr

from research.common.errors import ConfigError
from research.data.splits import SPLITS
from research.tasks.speech_recognition.data.corpus import DIGITS, Corpus, Features, Utterance
from research.tasks.speech_recognition.data.synthesis import Synthesizer
from research.tasks.speech_recognition.features import Given


@dataclass(frozen=True)
class SpokenDigits:
    """Strings of digits spoken by eSpeak NG; nothing is downloaded.

    Speed, pitch, intonation and pauses are drawn for each utterance, and its voice from those of
    the split. eSpeak's voices are accents times speakers: the speakers are dealt out to the splits,
    so that nobody is heard in two of them.
    """

    train_utterances: int = 6000
    """So many are spoken to learn from."""

    test_utterances: int = 500
    """So many for validation, and as many for the test."""

    most_digits: int = 7
    """An utterance has from one to so many."""

    def __post_init__(self):
        for key in ("train_utterances", "test_utterances", "most_digits"):
            if getattr(self, key) < 1:
                raise ConfigError(key, f"must be at least 1, is {getattr(self, key)}")

    def open(self, split: str, features: Features) -> Corpus:
        """The utterances of a split, spoken in some twenty seconds and kept in memory."""
        if isinstance(features, Given):
            raise ConfigError("type", "SpokenDigits gives audio; set features to LogMel")
        return _speak(self, split, features.sample_rate)


@lru_cache(maxsize=3)  # a run opens its training split to learn its lengths, and to learn from it
def _speak(source: SpokenDigits, split: str, sample_rate: int) -> Corpus:
    synthesizer = Synthesizer()
    voices = voices_of(synthesizer.voices(), split)
    count = source.train_utterances if split == "train" else source.test_utterances

    def speak(index: int) -> tuple[str, str, np.ndarray]:
        rng = np.random.default_rng((SPLITS.index(split), index))
        text = " ".join(rng.choice(DIGITS, rng.integers(1, source.most_digits + 1)))
        voice = voices[rng.integers(len(voices))]
        audio, rate = synthesizer.speak(
            text,
            voice,
            rate_wpm=int(rng.integers(110, 280)),
            pitch=int(rng.integers(15, 85)),
            pitch_range=int(rng.integers(10, 90)),
            word_gap=int(rng.integers(0, 12)),
        )
        # Resampling overshoots where a voice is loud; 16 bits would wrap around to a click.
        audio = soxr.resample(audio, rate, sample_rate).clip(-1, 1)
        return text, voice, (audio * 32767).astype(np.int16)

    with ThreadPoolExecutor() as pool:
        spoken = list(pool.map(speak, range(count)))
    utterances = [
        Utterance(f"spoken digits {split}:{index}", text, len(audio) / sample_rate, voice)
        for index, (text, voice, audio) in enumerate(spoken)
    ]
    return Corpus(utterances, lambda index: spoken[index][2] / np.float32(32767))


def voices_of(names: Sequence[str], split: str) -> list[str]:
    """Those of a split: of every ten speakers one is kept for the test, and one for validation."""
    speakers = sorted({name.partition("+")[2] for name in names})
    order = np.random.default_rng(0).permutation(len(speakers))
    place = {speakers[speaker]: place % 10 for place, speaker in enumerate(order)}
    kept = {"test": {0}, "validation": {1}, "train": set(range(2, 10))}[split]
    return [name for name in names if place[name.partition("+")[2]] in kept]
