"""Readers of sound files: whole files, streams, and segments of limited length."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import numpy as np
import soundfile
import soxr
from soundfile import SoundFile, SoundFileError

from research.common.errors import UserError

_FRAMES_PER_SECOND = 100  # resolution of the energy curve that determines segment boundaries
_PAUSE_FRAMES = 10  # length of the pauses to search for, 100 ms
_PREROLL = 1.0  # seconds to decode before a segment, because MP3 frames depend on earlier ones
_QUALITY = "HQ"


def read_audio(source: bytes | Path, sample_rate: int) -> np.ndarray:
    """Reads a whole sound file, resamples it and averages its channels.

    Args:
      source: path or bytes of a file in any format of libsndfile (WAV, FLAC, MP3, Ogg, ...).
      sample_rate: target sample rate in Hz.

    Returns:
      float32 [samples] in [-1, 1].

    Raises:
      UserError: the file is missing, damaged, empty, in another format, or not finite.
    """
    with _opened(source) as file:
        return np.concatenate(list(_resampled(file, sample_rate)))


def blocks(path: Path, sample_rate: int, seconds: float) -> Iterator[np.ndarray]:
    """Yields the audio of `read_audio` in consecutive blocks; the last may be shorter.

    Args:
      path: in any format of libsndfile.
      sample_rate: target sample rate in Hz.
      seconds: duration of a block.

    Raises:
      UserError: as `read_audio`, at the first damaged block.
    """
    size = round(seconds * sample_rate)
    buffer = np.empty(0, np.float32)
    with _opened(path) as file:
        for part in _resampled(file, sample_rate):
            buffer = np.concatenate([buffer, part])
            while len(buffer) >= size:
                yield buffer[:size]
                buffer = buffer[size:]
    if len(buffer):
        yield buffer


class Recording:
    """A sound file of any length as consecutive segments of limited length.

    A segment ends at the quietest point of the last third of the allowed length, so that few words
    are split. The constructor reads the file once and stores 100 energy values per second.

    Args:
      path: in any format of libsndfile; files of several segments need a format that can seek.
      sample_rate: target sample rate in Hz.
      max_seconds: maximum duration of a segment, at least 0.5 s.

    Raises:
      UserError: as `read_audio`, or the file needs several segments and its format cannot seek.
    """

    segments: list[tuple[float, float]]  # start and end in seconds
    power: float  # mean square of the loudest 10 ms

    def __init__(self, path: Path, sample_rate: int, max_seconds: float):
        self.path, self.sample_rate = path, sample_rate
        with _opened(path) as file:
            self._rate = file.samplerate
            hop = max(1, self._rate // _FRAMES_PER_SECOND)
            energies, samples = [], 0
            for block in _mono(file, _FRAMES_PER_SECOND * hop):
                energies.append(_energy(block, hop))
                samples += len(block)
            energy = np.concatenate(energies)
            starts = _segment_starts(energy, samples / hop, max_seconds * self._rate / hop)
            if len(starts) > 1 and not file.can_seek:
                raise SoundFileError("its format does not support seeking")
        edges = [start * hop / self._rate for start in starts] + [samples / self._rate]
        self.segments, self.power = list(pairwise(edges)), float(energy.max())

    def read(self, index: int) -> np.ndarray:
        """Reads one segment, float32 [samples]. Threads may read at the same time."""
        start, end = (round(time * self._rate) for time in self.segments[index])
        before = min(start, round(_PREROLL * self._rate))
        with _opened(self.path) as file:
            if start > before:
                file.seek(start - before)
            audio = next(_mono(file, before + end - start))[before:]
        return soxr.resample(audio, self._rate, self.sample_rate, quality=_QUALITY)


class _File(SoundFile):
    """A sound file for sequential reading.

    In seekable files `soundfile` seeks to the current position after every read, which corrupts the
    next frames of an MP3.
    """

    def seekable(self) -> bool:
        return False

    @property
    def can_seek(self) -> bool:
        """Whether the format supports `seek`."""
        return super().seekable()


@contextmanager
def _opened(source: bytes | Path) -> Iterator[_File]:
    """Opens a file, and converts its errors to a `UserError` that names it."""
    if isinstance(source, Path) and not source.exists():
        raise UserError(f"missing file {source}; check the path")
    if isinstance(source, Path) and source.is_dir():
        raise UserError(f"invalid audio {source}: it is a folder; expected a file")
    name = str(source) if isinstance(source, Path) else f"{len(source)} bytes"
    try:
        with _File(source if isinstance(source, Path) else io.BytesIO(source)) as file:
            yield file
    except (SoundFileError, TypeError) as error:  # TypeError: for names that end in .raw
        text = error.error_string if isinstance(error, soundfile.LibsndfileError) else str(error)
        reason = text.strip(" .")
        raise UserError(
            f"cannot read audio from {name} ({reason}); replace it or convert it to WAV or FLAC"
        ) from None


def _mono(file: _File, size: int) -> Iterator[np.ndarray]:
    """Yields the rest of the file in blocks of `size` samples; the last may be shorter."""
    empty = True
    while len(block := file.read(size, dtype="float32", always_2d=True)):
        if not np.isfinite(block).all():
            raise SoundFileError("it contains infinite or NaN samples")
        empty = False
        yield block.mean(axis=1)
    if empty:
        raise SoundFileError("it contains no samples")


def _resampled(file: _File, sample_rate: int) -> Iterator[np.ndarray]:
    """Yields the rest of the file at another rate, continuously in blocks of about a second."""
    rate = file.samplerate
    resampler = soxr.ResampleStream(rate, sample_rate, 1, dtype="float32", quality=_QUALITY)
    for block in _mono(file, rate):
        yield resampler.resample_chunk(block)
    yield resampler.resample_chunk(np.empty(0, np.float32), last=True)


def _energy(samples: np.ndarray, hop: int) -> np.ndarray:
    """Returns the mean square of each `hop` samples, [frames]."""
    padded = np.pad(samples, (0, -len(samples) % hop))
    return np.square(padded).reshape(-1, hop).mean(axis=1)


def _segment_starts(energy: np.ndarray, length: float, max_length: float) -> list[int]:
    """Returns the frames at which segments start.

    Args:
      energy: [frames].
      length: length of the recording in frames; the last frame may be incomplete.
      max_length: maximum length of a segment in frames.
    """
    pause = np.convolve(energy, np.ones(_PAUSE_FRAMES, np.float32), "valid")  # by first frame
    starts = [0]
    while length - starts[-1] > max_length:
        first = starts[-1] + int(max_length * 2 / 3)
        last = starts[-1] + int(max_length) - _PAUSE_FRAMES
        starts.append(first + int(np.argmin(pause[first : last + 1])) + _PAUSE_FRAMES // 2)
    return starts
