"""Manifests: JSON lines that list utterances, in the format of NVIDIA NeMo."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from research.common.errors import ConfigError, caused_by
from research.common.files import read_lines
from research.data.splits import (
    check_duplicates,
    check_fraction,
    fall_back_to_validation,
    hold_out_groups,
    warn_once,
)
from research.tasks.speech_recognition.data.corpus import (
    Corpus,
    Features,
    Utterance,
    read_input,
    with_durations,
)

_TOLERANCE = 0.5  # seconds by which a duration that was rounded to whole seconds may differ


@dataclass(frozen=True)
class Manifest:
    """The user's own utterances: JSON lines in the format of NVIDIA NeMo.

    A line has `text`, and `audio_filepath` or `features_filepath`, a `.npy` file [frames, size].
    Optional are `speaker`, and `duration` in seconds, which is only compared with that of the file.
    Paths are relative to the manifest's folder.
    """

    train: str
    """Manifest of the training split."""

    test: str = ""
    """Manifest of the test split; empty: the validation split is used instead."""

    validation: str = ""
    """Manifest of the validation split; empty: some speakers of `train` are held out."""

    validation_fraction: float = 0.1
    """Fraction of speakers to hold out; of utterances where speakers are unknown, or there is only
    one."""

    def __post_init__(self):
        check_fraction("validation_fraction", self.validation_fraction)

    @property
    def has_test(self) -> bool:
        """Whether there is a test split; if not, the validation split is used instead."""
        return bool(self.test)

    def open(self, split: str, features: Features) -> Corpus:
        """Opens the utterances of a split."""
        if split == "train":
            check_duplicates(self, ("validation", "test") if self.has_test else ("validation",))
        rows = self._rows(split)
        files, declared = [file for _, file in rows], [row for row, _ in rows]
        utterances = with_durations(declared, files, features)
        _compare_durations(declared, utterances)
        return Corpus(utterances, lambda index: read_input(files[index], features))

    def contents(self, split: str) -> list[tuple[str, Path]]:
        """Returns the line and the file of each valid utterance of a split."""
        return [(row.origin, file) for row, file in self._rows(split) if not row.problem]

    def _rows(self, split: str) -> list[tuple[Utterance, Path]]:
        """Returns the utterances of a split, without their lengths, and their files."""
        split = fall_back_to_validation(split, self.has_test, str(self.train))
        if split == "test" or (split == "validation" and self.validation):
            return self._read(split)
        rows = self._read("train")
        if self.validation:
            return rows
        is_one = len({row.speaker for row, _ in rows}) == 1
        groups = [(not is_one and row.speaker) or str(i) for i, (row, _) in enumerate(rows)]
        kept, held_out = hold_out_groups(groups, self.validation_fraction)
        return [rows[i] for i in (held_out if split == "validation" else kept)]

    def _read(self, key: str) -> list[tuple[Utterance, Path]]:
        path = Path(getattr(self, key))
        with caused_by(key):
            lines = enumerate(read_lines(path), 1)
        rows = [_manifest_line(path, number, line) for number, line in lines if line.strip()]
        if not rows:
            raise ConfigError(key, f"invalid manifest {path}: it is empty")
        return rows


def _manifest_line(path: Path, number: int, line: str) -> tuple[Utterance, Path]:
    """Returns an utterance and its file; an utterance with a problem if the line is invalid."""
    origin = f"{path}:{number}"
    try:
        row = json.loads(line)
        if row.get("offset"):
            problem = "unsupported key 'offset': expected a file of its own for each utterance"
            return Utterance(origin, problem=problem), path
        file = row.get("audio_filepath") or row["features_filepath"]
        speaker = row.get("speaker")
        utterance = Utterance(
            origin,
            _transcript(row["text"]),
            _declared_seconds(row.get("duration")),
            "" if speaker is None else str(speaker),
        )
        return utterance, path.parent / file
    except KeyError as error:
        problem = f"missing key {error}"
    except (ValueError, TypeError, AttributeError):
        problem = "invalid line: expected a JSON object with audio_filepath and text"
    return Utterance(origin, problem=problem), path


def _transcript(value: Any) -> str:
    if isinstance(value, str | int | float):  # "5" may be written as a number
        return str(value)
    raise TypeError(value)


def _declared_seconds(value: Any) -> float:
    """Returns the duration in a manifest: 0 if missing, NaN if it is not a number."""
    try:
        return 0.0 if value is None else float(value)
    except (ValueError, TypeError, OverflowError):
        return math.nan


def _compare_durations(declared: Sequence[Utterance], actual: Sequence[Utterance]) -> None:
    """Warns of durations in a manifest that are not numbers or differ from those of the files."""
    invalid = [row for row in declared if math.isnan(row.seconds)]
    if invalid:
        first = invalid[0].origin
        warn_once(
            f"{len(invalid)} of {len(declared)} durations in {first.rpartition(':')[0]} are not "
            f"numbers; those of the files are used: e.g. {first}"
        )
    different = [
        (mine, file)
        for mine, file in zip(declared, actual, strict=True)
        if mine.seconds and not file.problem and abs(mine.seconds - file.seconds) > _TOLERANCE
    ]
    if different:
        mine, file = different[0]
        warn_once(
            f"{len(different)} of {len(declared)} durations in {mine.origin.rpartition(':')[0]} "
            f"differ by more than {_TOLERANCE:g} s from those of the files, which are used: e.g. "
            f"{mine.origin} has {mine.seconds:.2f} s instead of {file.seconds:.2f} s"
        )
