"""Utterances listed in manifests, files of JSON lines after the convention of NVIDIA NeMo."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from research.common.errors import ConfigError
from research.tasks.speech_recognition.data.corpus import (
    Corpus,
    Features,
    Utterance,
    read_input,
    with_length,
)


@dataclass(frozen=True)
class Manifest:
    """Your own utterances: files of JSON lines, after the convention of NVIDIA NeMo.

    A line has `audio_filepath`, or `features_filepath` of a `.npy` [frames, size], and `text`; it
    may have `duration` in seconds and `speaker`. Paths are taken from the manifest's folder.
    """

    train: str
    """The manifest to learn from."""

    test: str = ""
    """The manifest to report; empty: the validation split is tested."""

    validation: str = ""
    """The manifest to choose by; empty: some speakers are held out of `train`."""

    validation_fraction: float = 0.1
    """The part that is then held out, of the speakers, or of the utterances if none are named."""

    def __post_init__(self):
        if not 0 < self.validation_fraction < 1:
            raise ConfigError("validation_fraction", "must lie between 0 and 1")

    def open(self, split: str, features: Features) -> Corpus:
        """The utterances of a split."""
        if split == "test" and not self.test:
            split = "validation"
        if split == "test" or (split == "validation" and self.validation):
            return self._load(split, features)
        corpus = self._load("train", features)
        if self.validation:
            return corpus
        groups = [one.speaker or str(number) for number, one in enumerate(corpus.utterances)]
        held = _some(sorted(set(groups)), self.validation_fraction)
        chosen = held if split == "validation" else set(groups) - held
        return corpus.part(i for i, group in enumerate(groups) if group in chosen)

    def _load(self, key: str, features: Features) -> Corpus:
        path = Path(getattr(self, key))
        try:
            lines = path.read_text().splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(key, f"cannot read the manifest {path}: {error}") from None
        rows = [_manifest_line(path, number, line) for number, line in enumerate(lines, 1) if line]
        if not rows:
            raise ConfigError(key, f"the manifest {path} has no line")
        files = [file for _, file in rows]
        utterances = [with_length(row, file, features) for row, file in rows]
        return Corpus(utterances, lambda index: read_input(files[index], features))


def _manifest_line(path: Path, number: int, line: str) -> tuple[Utterance, Path]:
    """An utterance and its file; one with a fault where the line is not as it should be."""
    where = f"{path}:{number}"
    try:
        row = json.loads(line)
        file = row.get("audio_filepath") or row["features_filepath"]
        text, seconds = row["text"], float(row.get("duration", 0.0))
        utterance = Utterance(where, str(text), seconds, str(row.get("speaker", "")))
        return utterance, path.parent / file
    except KeyError as error:
        fault = f"the line has no {error}"
    except (ValueError, TypeError, AttributeError):
        fault = "the line is not a JSON object with audio_filepath and text"
    return Utterance(where, fault=fault), path


def _some(names: Sequence[str], fraction: float) -> set[str]:
    """The same share of the names each time, one at least."""
    count = max(1, round(len(names) * fraction))
    return set(np.random.default_rng(0).permutation(np.array(names))[:count].tolist())
