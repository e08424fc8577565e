"""LibriSpeech, and other corpora in its layout."""

from dataclasses import dataclass
from pathlib import Path

from research.common.errors import ConfigError, caused_by
from research.common.files import read_lines
from research.data.splits import check_duplicates
from research.tasks.speech_recognition.data.corpus import (
    Corpus,
    Features,
    Utterance,
    read_input,
    with_durations,
)


@dataclass(frozen=True)
class LibriSpeech:
    """A folder in the layout of LibriSpeech: `SUBSET/SPEAKER/CHAPTER/*.flac` and `*.trans.txt`."""

    path: str
    """Folder that contains the subsets."""

    train: tuple[str, ...] = ("train-clean-100", "train-clean-360", "train-other-500")
    """Subsets of the training split."""

    validation: tuple[str, ...] = ("dev-clean",)
    """Subsets of the validation split."""

    test: tuple[str, ...] = ("test-clean",)
    """Subsets of the test split."""

    def open(self, split: str, features: Features) -> Corpus:
        """Opens the utterances of a split."""
        if split == "train":
            check_duplicates(self)
        found = self._utterances(split)
        files = [file for _, file in found]
        utterances = with_durations([utterance for utterance, _ in found], files, features)
        return Corpus(utterances, lambda index: read_input(files[index], features))

    def contents(self, split: str) -> list[tuple[str, Path]]:
        """Returns the line and the file of each utterance of a split."""
        return [(utterance.origin, file) for utterance, file in self._utterances(split)]

    def _utterances(self, split: str) -> list[tuple[Utterance, Path]]:
        return [pair for subset in getattr(self, split) for pair in self._subset(subset)]

    def _subset(self, subset: str) -> list[tuple[Utterance, Path]]:
        folder = Path(self.path) / subset
        transcripts = sorted(folder.rglob("*.trans.txt"))
        if not transcripts:
            raise ConfigError("path", f"missing transcripts: no *.trans.txt in {folder}")
        found = []
        for transcript in transcripts:
            with caused_by("path"):
                lines = read_lines(transcript)
            for number, line in enumerate(lines, 1):
                if not line.strip():
                    continue
                name, _, text = line.partition(" ")
                origin, speaker = f"{transcript}:{number}", name.split("-")[0]
                found.append(
                    (Utterance(origin, text, speaker=speaker), transcript.with_name(f"{name}.flac"))
                )
        return found
