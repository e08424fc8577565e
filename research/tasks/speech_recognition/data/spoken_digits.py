"""Synthetic strings of digits."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import soxr

from research.common.config import renamed_from
from research.common.errors import ConfigError
from research.common.progress import progress
from research.data.splits import SPLITS
from research.tasks.speech_recognition.data.corpus import DIGITS, Corpus, Features, Utterance
from research.tasks.speech_recognition.data.synthesis import Synthesizer
from research.tasks.speech_recognition.features import PrecomputedFeatures


@dataclass(frozen=True)
class SpokenDigits:
    """Strings of digits synthesised by eSpeak NG, without any download.

    Speed, pitch, intonation and pauses of each utterance are random, and so is its voice among
    those of the split. A voice of eSpeak is an accent and a speaker; the splits have disjoint
    speakers.
    """

    num_train_utterances: int = renamed_from("train_utterances", default=6000)
    """Number of training utterances."""

    num_test_utterances: int = renamed_from("test_utterances", default=500)
    """Number of test utterances, and of validation utterances."""

    max_digits: int = renamed_from("most_digits", default=7)
    """Maximum number of digits in an utterance; the minimum is one."""

    def __post_init__(self):
        for key in ("num_train_utterances", "num_test_utterances", "max_digits"):
            if getattr(self, key) < 1:
                problem = f"invalid number {getattr(self, key)}: expected at least 1"
                raise ConfigError(key, problem)

    def open(self, split: str, features: Features) -> Corpus:
        """Synthesises the utterances of a split in memory, which takes about 20 seconds."""
        if isinstance(features, PrecomputedFeatures):
            raise ConfigError("type", "invalid features: SpokenDigits contains audio; use LogMel")
        return _speak(self, split, features.sample_rate)


@lru_cache(maxsize=3)  # a run opens its training split for its durations, and again to train on it
def _speak(source: SpokenDigits, split: str, sample_rate: int) -> Corpus:
    """Synthesises a split at a sample rate in Hz."""
    synthesizer = Synthesizer()
    voices = voices_of(synthesizer.voices(), split)
    is_train = split == "train"
    count = source.num_train_utterances if is_train else source.num_test_utterances

    def speak(index: int) -> tuple[str, str, np.ndarray]:
        rng = np.random.default_rng((SPLITS.index(split), index))
        text = " ".join(rng.choice(DIGITS, rng.integers(1, source.max_digits + 1)))
        voice = voices[rng.integers(len(voices))]
        audio, rate = synthesizer.speak(
            text,
            voice,
            rate_wpm=int(rng.integers(110, 280)),
            pitch=int(rng.integers(15, 85)),
            pitch_range=int(rng.integers(10, 90)),
            word_gap=int(rng.integers(0, 12)),
        )
        # Resampling can overshoot full scale, which 16-bit integers would turn into a click.
        audio = soxr.resample(audio, rate, sample_rate).clip(-1, 1)
        return text, voice, (audio * 32767).astype(np.int16)

    with ThreadPoolExecutor() as pool:
        name = f"synthesising the {split} utterances"
        spoken = list(progress(pool.map(speak, range(count)), name, count))
    utterances = [
        Utterance(f"spoken digits {split}:{index}", text, len(audio) / sample_rate, voice)
        for index, (text, voice, audio) in enumerate(spoken)
    ]
    return Corpus(utterances, lambda index: spoken[index][2] / np.float32(32767))


def voices_of(names: Sequence[str], split: str) -> list[str]:
    """Returns the voices of a split: 1/10 of the speakers for test, and 1/10 for validation."""
    speakers = sorted({name.partition("+")[2] for name in names})
    order = np.random.default_rng(0).permutation(len(speakers))
    fold = {speakers[speaker]: rank % 10 for rank, speaker in enumerate(order)}
    folds = {"test": {0}, "validation": {1}, "train": set(range(2, 10))}[split]
    return [name for name in names if fold[name.partition("+")[2]] in folds]
