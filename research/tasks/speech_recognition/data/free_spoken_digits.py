"""The Free Spoken Digit Dataset: recorded digits of six speakers."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from research.common.config import suggest
from research.common.errors import ConfigError
from research.data.splits import check_duplicates
from research.tasks.speech_recognition.data.corpus import (
    DIGITS,
    Corpus,
    Features,
    Utterance,
    read_input,
    with_durations,
)

MIN_STRING, MAX_STRING = 2, 5  # digits in a string


@dataclass(frozen=True)
class FreeSpokenDigits:
    """A folder of recordings `{digit}_{speaker}_{take}.wav`: the Free Spoken Digit Dataset.

    https://github.com/Jakobovski/free-spoken-digit-dataset. As its authors define, the test split
    is the first five takes of each digit by each speaker.
    """

    path: str
    """Folder of the recordings."""

    test_speaker: str = ""
    """Test on all takes of this speaker, who is excluded from training; empty: on takes 0 to 4."""

    num_strings: int = 0
    """Number of strings of digits in the training split, beside the single ones: two to five random
    recordings of one speaker, joined."""

    def __post_init__(self):
        if self.num_strings < 0:
            problem = f"invalid number {self.num_strings}: expected at least 0"
            raise ConfigError("num_strings", problem)

    def open(self, split: str, features: Features) -> Corpus:
        """Opens the utterances of a split."""
        if split == "train":
            check_duplicates(self)
        files = self._files(split)
        names = [file.stem.split("_") for file in files]
        utterances = [
            Utterance(file.name, DIGITS[int(digit)], speaker=speaker)
            for file, (digit, speaker, _) in zip(files, names, strict=True)
        ]
        utterances = with_durations(utterances, files, features)
        parts: list[tuple[int, ...]] = [(index,) for index in range(len(files))]
        if split == "train" and self.num_strings:
            if not files:
                raise ConfigError("num_strings", "expected 0, as no recording is left for training")
            strings = _strings([speaker for _, speaker, _ in names], self.num_strings)
            utterances += [_joined([utterances[i] for i in string]) for string in strings]
            parts += strings
        return Corpus(
            utterances,
            lambda index: np.concatenate([read_input(files[i], features) for i in parts[index]]),
        )

    def contents(self, split: str) -> list[tuple[str, Path]]:
        """Returns the name and the path of each recording of a split."""
        return [(file.name, file) for file in self._files(split)]

    def _files(self, split: str) -> list[Path]:
        files = sorted(Path(self.path).glob("[0-9]_*_*.wav"))
        if not files:
            raise ConfigError(
                "path", f"missing recordings: no file like 3_theo_14.wav in {self.path}"
            )
        names = [file.stem.split("_") for file in files]
        speakers = sorted({speaker for _, speaker, _ in names})
        if self.test_speaker and self.test_speaker not in speakers:
            hint = suggest(self.test_speaker, speakers)
            problem = f"unknown speaker '{self.test_speaker}' in {self.path}; {hint}"
            raise ConfigError("test_speaker", problem)
        return [
            file
            for file, (_, speaker, take) in zip(files, names, strict=True)
            if self._split(speaker, int(take)) == split
        ]

    def _split(self, speaker: str, take: int) -> str:
        test = speaker == self.test_speaker if self.test_speaker else take < 5
        return "test" if test else "validation" if 5 <= take < 8 else "train"


def _strings(speakers: Sequence[str], count: int) -> list[tuple[int, ...]]:
    """Returns the positions of the recordings of each string, the same for every run."""
    rng = np.random.default_rng(0)
    rows = {speaker: np.flatnonzero(np.array(speakers) == speaker) for speaker in set(speakers)}
    lengths = rng.integers(MIN_STRING, MAX_STRING + 1, count)
    of = rng.choice(sorted(rows), count)
    return [
        tuple(map(int, rng.choice(rows[str(speaker)], length)))
        for speaker, length in zip(of, lengths, strict=True)
    ]


def _joined(parts: Sequence[Utterance]) -> Utterance:
    return Utterance(
        " + ".join(part.origin for part in parts),
        " ".join(part.text for part in parts),
        sum(part.seconds for part in parts),
        parts[0].speaker,
        next((part.problem for part in parts if part.problem), ""),
    )
