"""Utterances, corpora, and the files that they are read from."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import BinaryIO

import numpy as np
import soundfile

from research.common.errors import UserError
from research.data.audio import read_audio
from research.tasks.speech_recognition.features import Given, LogMel

Features = LogMel | Given
# NumPy parses a file's head as Python, which Python 3.11 cannot do in two threads at once:
# https://github.com/python/cpython/issues/106905
_parsing = Lock()
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


@dataclass(frozen=True)
class Utterance:
    """What is known of an utterance before it is read."""

    where: str
    """How messages name it, such as "train.jsonl:12"."""

    text: str = ""
    """What is said."""

    seconds: float = 0.0
    """Its length."""

    speaker: str = ""
    """Who says it, where that is known."""

    fault: str = ""
    """Why it cannot be used; empty where it can."""


@dataclass(frozen=True)
class Corpus:
    """The utterances of a split, and a function that reads one by its index.

    It gives float32 audio [samples] in [-1, 1], or float32 features [frames, size], and raises
    `UserError` where it cannot.
    """

    utterances: Sequence[Utterance]
    read: Callable[[int], np.ndarray]


def read_input(path: Path, features: Features) -> np.ndarray:
    """A file as the network's input: audio [samples], or features [frames, size] from `.npy`.

    Raises:
      UserError: it cannot be used; names it.
    """
    if isinstance(features, LogMel):
        return read_audio(path, features.sample_rate)
    try:
        with _parsing:
            array = np.load(path)
    except (OSError, ValueError) as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else "not a .npy file"
        raise UserError(f"{path}: cannot be used as features ({reason})") from None
    if array.ndim != 2 or array.shape[1] != features.size or not len(array):
        raise UserError(f"{path}: has shape {list(array.shape)}, not [frames, {features.size}]")
    if not np.isfinite(array).all():
        raise UserError(f"{path}: holds values that are infinite or not a number")
    return array.astype(np.float32)


def with_length(utterance: Utterance, file: Path | BinaryIO, features: Features) -> Utterance:
    """The utterance with its length, from the head of its file where it is not known."""
    if utterance.seconds > 0 or utterance.fault:
        return utterance
    fault, seconds = "", 0.0
    try:
        if isinstance(features, LogMel):
            info = soundfile.info(file)
            seconds = info.frames / info.samplerate
        else:
            seconds = len(np.load(file, mmap_mode="r")) * features.frame_ms / 1000
    except (OSError, ValueError, soundfile.SoundFileError) as error:
        fault = f"{file} cannot be read: {error}"
    return Utterance(utterance.where, utterance.text, seconds, utterance.speaker, fault)
