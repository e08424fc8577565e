"""The Free Spoken Digit Dataset: recorded digits of six speakers."""

from dataclasses import dataclass
from pathlib import Path

from research.common.config import suggest
from research.common.errors import ConfigError
from research.data.splits import check_duplicates
from research.tasks.speech_recognition.data.corpus import (
    DIGITS,
    Corpus,
    Features,
    Utterance,
    read_input,
    with_length,
)


@dataclass(frozen=True)
class FreeSpokenDigits:
    """Recordings `{digit}_{speaker}_{take}.wav` in a folder: the Free Spoken Digit Dataset.

    https://github.com/Jakobovski/free-spoken-digit-dataset: of each speaker's takes of each digit
    the first five are the test, as its authors have it.
    """

    path: str
    """The folder with the recordings."""

    test_speaker: str = ""
    """Test on all takes of this speaker, of whom nothing is learned; empty: on takes 0 to 4."""

    def open(self, split: str, features: Features) -> Corpus:
        """The utterances of a split."""
        if split == "train":
            check_duplicates(self)
        files = self._files(split)
        names = [file.stem.split("_") for file in files]
        utterances = [
            with_length(Utterance(file.name, DIGITS[int(digit)], speaker=speaker), file, features)
            for file, (digit, speaker, _) in zip(files, names, strict=True)
        ]
        return Corpus(utterances, lambda index: read_input(files[index], features))

    def contents(self, split: str) -> list[tuple[str, Path]]:
        """Returns the name and the path of each recording of a split."""
        return [(file.name, file) for file in self._files(split)]

    def _files(self, split: str) -> list[Path]:
        files = sorted(Path(self.path).glob("[0-9]_*_*.wav"))
        if not files:
            raise ConfigError("path", f"{self.path} holds no file like 3_theo_14.wav")
        names = [file.stem.split("_") for file in files]
        speakers = sorted({speaker for _, speaker, _ in names})
        if self.test_speaker and self.test_speaker not in speakers:
            known = suggest(self.test_speaker, speakers)
            raise ConfigError("test_speaker", f"no '{self.test_speaker}' in {self.path}; {known}")
        return [
            file
            for file, (_, speaker, take) in zip(files, names, strict=True)
            if self._split(speaker, int(take)) == split
        ]

    def _split(self, speaker: str, take: int) -> str:
        test = speaker == self.test_speaker if self.test_speaker else take < 5
        return "test" if test else "validation" if 5 <= take < 8 else "train"
