"""Utterances, corpora, and the files that contain them."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import BinaryIO

import numpy as np
import soundfile

from research.common.errors import UserError
from research.common.progress import progress
from research.data.audio import read_audio
from research.tasks.speech_recognition.features import LogMel, PrecomputedFeatures

Features = LogMel | PrecomputedFeatures
# NumPy parses file headers as Python source, which Python 3.11 cannot do in two threads at once:
# https://github.com/python/cpython/issues/106905
_header_lock = Lock()
_FILES = 64  # whose headers a thread reads in a row; a task of a thread costs as much as a header
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


@dataclass(frozen=True)
class Utterance:
    """Metadata of an utterance."""

    origin: str
    """Its identification in messages, such as "train.jsonl:12"."""

    text: str = ""
    """Transcript."""

    seconds: float = 0.0
    """Duration in seconds."""

    speaker: str = ""
    """Name of the speaker; empty if unknown."""

    problem: str = ""
    """Why the utterance cannot be used; empty if it can."""


@dataclass(frozen=True)
class Corpus:
    """The utterances of a split, and a function that reads one by its index.

    `read` returns float32 audio [samples] in [-1, 1], or float32 features [frames, size], and
    raises `UserError` if it cannot read them.
    """

    utterances: Sequence[Utterance]
    read: Callable[[int], np.ndarray]


def read_input(path: Path, features: Features) -> np.ndarray:
    """Reads audio [samples], or features [frames, size] from a `.npy` file.

    Raises:
      UserError: the file cannot be read or its content is invalid.
    """
    if isinstance(features, LogMel):
        return read_audio(path, features.sample_rate)
    try:
        with _header_lock:
            array = np.load(path)
    except (OSError, ValueError) as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else "not a .npy file"
        raise UserError(f"cannot read features from {path}: {reason}") from None
    if array.ndim != 2 or array.shape[1] != features.size or not len(array):
        problem = f"invalid shape {list(array.shape)}: expected [frames, {features.size}]"
        raise UserError(f"{path}: {problem}")
    if not np.isfinite(array).all():
        raise UserError(f"{path}: invalid features: some are infinite or NaN")
    return array.astype(np.float32)


def with_durations(
    utterances: Sequence[Utterance], files: Sequence[Path], features: Features
) -> list[Utterance]:
    """Returns the utterances with their durations, read from the headers of their files.

    Args:
      utterances: those with a problem are returned unchanged.
      files: the file of each utterance.
      features: determine whether the files contain audio or features.
    """

    def read(part: slice) -> list[Utterance]:
        pairs = zip(utterances[part], files[part], strict=True)
        return [with_duration(utterance, file, features) for utterance, file in pairs]

    parts = [slice(start, start + _FILES) for start in range(0, len(files), _FILES)]
    with ThreadPoolExecutor() as pool:  # file systems in a network take a millisecond per file
        done = progress(pool.map(read, parts), "reading durations", len(parts))
        return [one for part in done for one in part]


def with_duration(utterance: Utterance, file: Path | BinaryIO, features: Features) -> Utterance:
    """Returns the utterance with its duration, read from the header of its file."""
    if utterance.problem:
        return utterance
    try:
        if isinstance(file, Path):
            return replace(utterance, seconds=_seconds(file, file.stat().st_mtime_ns, features))
        return replace(utterance, seconds=_read_seconds(file, features))
    except (OSError, ValueError, soundfile.SoundFileError) as error:
        return replace(utterance, seconds=0.0, problem=f"cannot read {file}: {error}")


@lru_cache(maxsize=1_000_000)  # a run opens its splits twice, and networks are slow
def _seconds(file: Path, modified: int, features: Features) -> float:
    return _read_seconds(file, features)


def _read_seconds(file: Path | BinaryIO, features: Features) -> float:
    """Returns the duration of a file, from its header."""
    if isinstance(features, LogMel):
        info = soundfile.info(file)
        return info.frames / info.samplerate
    with _header_lock:
        frames = len(np.load(file, mmap_mode="r"))
    return frames * features.frame_ms / 1000
