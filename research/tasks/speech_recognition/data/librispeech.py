"""LibriSpeech and other corpora in its layout."""

from dataclasses import dataclass
from pathlib import Path

from research.common.errors import ConfigError
from research.data.splits import check_duplicates
from research.tasks.speech_recognition.data.corpus import (
    Corpus,
    Features,
    Utterance,
    read_input,
    with_length,
)


@dataclass(frozen=True)
class LibriSpeech:
    """Folders as LibriSpeech has them: `PATH/PART/SPEAKER/CHAPTER/*.flac` with `*.trans.txt`."""

    path: str
    """The folder that holds the parts."""

    train: tuple[str, ...] = ("train-clean-100", "train-clean-360", "train-other-500")
    """The parts to learn from."""

    validation: tuple[str, ...] = ("dev-clean",)
    """The parts to choose by."""

    test: tuple[str, ...] = ("test-clean",)
    """The parts to report."""

    def open(self, split: str, features: Features) -> Corpus:
        """The utterances of a split."""
        if split == "train":
            check_duplicates(self)
        found = self._listed(split)
        utterances = [with_length(utterance, file, features) for utterance, file in found]
        files = [file for _, file in found]
        return Corpus(utterances, lambda index: read_input(files[index], features))

    def contents(self, split: str) -> list[tuple[str, Path]]:
        """Returns the line and the file of each utterance of a split."""
        return [(utterance.where, file) for utterance, file in self._listed(split)]

    def _listed(self, split: str) -> list[tuple[Utterance, Path]]:
        return [pair for part in getattr(self, split) for pair in self._part(part)]

    def _part(self, part: str) -> list[tuple[Utterance, Path]]:
        folder = Path(self.path) / part
        transcripts = sorted(folder.rglob("*.trans.txt"))
        if not transcripts:
            raise ConfigError("path", f"{folder} holds no *.trans.txt, as LibriSpeech's parts do")
        found = []
        for transcript in transcripts:
            for number, line in enumerate(transcript.read_text().splitlines(), 1):
                name, _, text = line.partition(" ")
                where, speaker = f"{transcript}:{number}", name.split("-")[0]
                found.append(
                    (Utterance(where, text, speaker=speaker), transcript.with_name(f"{name}.flac"))
                )
        return found
