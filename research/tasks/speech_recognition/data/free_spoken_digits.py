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
    with_duration,
)


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

    def open(self, split: str, features: Features) -> Corpus:
        """Opens the utterances of a split."""
        if split == "train":
            check_duplicates(self)
        files = self._files(split)
        names = [file.stem.split("_") for file in files]
        utterances = [
            with_duration(Utterance(file.name, DIGITS[int(digit)], speaker=speaker), file, features)
            for file, (digit, speaker, _) in zip(files, names, strict=True)
        ]
        return Corpus(utterances, lambda index: read_input(files[index], features))

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
