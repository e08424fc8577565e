"""Sound files on the host: read whole, as a stream, or in segments of bounded length."""

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

_FRAMES_PER_SECOND = 100  # of the energy by which a recording is cut
_PAUSE = 10  # frames over which a place must be quiet: 100 ms
_RUN_UP = 1.0  # seconds; a frame of MP3 needs some that went before it
_QUALITY = "HQ"


def read_audio(source: bytes | Path, sample_rate: int) -> np.ndarray:
    """All of a sound file: float32 [samples] in [-1, 1], the mean of its channels.

    Args:
      source: a file, or the bytes of one, in any format of libsndfile (WAV, FLAC, MP3, Ogg, ...).
      sample_rate: in Hz, to which the sound is resampled.

    Raises:
      UserError: there is no such file, or it is no audio, damaged, empty or not finite.
    """
    with _opened(source) as file:
        return np.concatenate(list(_resampled(file, sample_rate)))


def blocks(path: Path, sample_rate: int, seconds: float) -> Iterator[np.ndarray]:
    """What `read_audio` gives, in consecutive blocks of `seconds`; the last may be shorter.

    Raises:
      UserError: as `read_audio`, at the block where the fault is met.
    """
    size = round(seconds * sample_rate)
    held = np.empty(0, np.float32)
    with _opened(path) as file:
        for part in _resampled(file, sample_rate):
            held = np.concatenate([held, part])
            while len(held) >= size:
                yield held[:size]
                held = held[size:]
    if len(held):
        yield held


class Recording:
    """A sound file of any length as segments that follow one another, each short enough to hold.

    A segment ends where the last third of what is allowed is quietest, so that words are seldom
    cut. Building one reads the file once, of which it keeps a hundred numbers per second.

    Args:
      path: in any format of libsndfile; one that has to be cut must allow seeking.
      sample_rate: in Hz, to which the segments are resampled.
      longest: a segment's greatest length in seconds, half a second or more.

    Raises:
      UserError: as `read_audio`, or the file has to be cut and its format cannot seek.
    """

    segments: list[tuple[float, float]]  # start and end in seconds
    power: float  # mean square of the loudest hundredth of a second

    def __init__(self, path: Path, sample_rate: int, longest: float):
        self.path, self.sample_rate = path, sample_rate
        with _opened(path) as file:
            self._rate = file.samplerate
            hop = max(1, self._rate // _FRAMES_PER_SECOND)
            energies, samples = [], 0
            for block in _mono(file, _FRAMES_PER_SECOND * hop):
                energies.append(_energy(block, hop))
                samples += len(block)
            energy = np.concatenate(energies)
            cuts = _cuts(energy, samples / hop, longest * self._rate / hop)
            if len(cuts) > 1 and not file.can_seek:
                raise SoundFileError("its format cannot be read from the middle")
        edges = [cut * hop / self._rate for cut in cuts] + [samples / self._rate]
        self.segments, self.power = list(pairwise(edges)), float(energy.max())

    def read(self, index: int) -> np.ndarray:
        """One segment: float32 [samples]. Several threads may read at once."""
        start, end = (round(time * self._rate) for time in self.segments[index])
        before = min(start, round(_RUN_UP * self._rate))
        with _opened(self.path) as file:
            if start > before:
                file.seek(start - before)
            audio = next(_mono(file, before + end - start))[before:]
        return soxr.resample(audio, self._rate, self.sample_rate, quality=_QUALITY)


class _File(SoundFile):
    """A sound file that is read onwards.

    Where a file can seek, `soundfile` seeks to where it already is after every read, which breaks
    the next frames of an MP3.
    """

    def seekable(self) -> bool:
        return False

    @property
    def can_seek(self) -> bool:
        """Whether `seek` works."""
        return super().seekable()


@contextmanager
def _opened(source: bytes | Path) -> Iterator[_File]:
    """The open file; any fault of it becomes a `UserError` that names it."""
    if isinstance(source, Path) and not source.exists():
        raise UserError(f"{source}: no such file; check the path")
    name = str(source) if isinstance(source, Path) else f"{len(source)} bytes"
    try:
        with _File(source if isinstance(source, Path) else io.BytesIO(source)) as file:
            yield file
    except (SoundFileError, TypeError) as error:  # TypeError: where the name ends in .raw
        fault = error.error_string if isinstance(error, soundfile.LibsndfileError) else str(error)
        reason = fault.strip(" .")
        raise UserError(
            f"{name}: cannot be used as audio ({reason}); replace it or convert it to WAV or FLAC"
        ) from None


def _mono(file: _File, size: int) -> Iterator[np.ndarray]:
    """The rest of the file in blocks [samples] of `size`, the last being shorter."""
    empty = True
    while len(block := file.read(size, dtype="float32", always_2d=True)):
        if not np.isfinite(block).all():
            raise SoundFileError("it holds samples that are infinite or not a number")
        empty = False
        yield block.mean(axis=1)
    if empty:
        raise SoundFileError("it holds no samples")


def _resampled(file: _File, sample_rate: int) -> Iterator[np.ndarray]:
    """The rest of the file at another rate, a second or so at a time, with no seam between."""
    rate = file.samplerate
    resampler = soxr.ResampleStream(rate, sample_rate, 1, dtype="float32", quality=_QUALITY)
    for block in _mono(file, rate):
        yield resampler.resample_chunk(block)
    yield resampler.resample_chunk(np.empty(0, np.float32), last=True)


def _energy(samples: np.ndarray, hop: int) -> np.ndarray:
    """Mean square of each `hop` samples: [frames]."""
    padded = np.pad(samples, (0, -len(samples) % hop))
    return np.square(padded).reshape(-1, hop).mean(axis=1)


def _cuts(energy: np.ndarray, length: float, longest: float) -> list[int]:
    """Frames at which segments start so that none has more than `longest` frames.

    Args:
      energy: [frames].
      length: of the recording in frames, of which the last may be a part.
      longest: in frames.
    """
    pause = np.convolve(energy, np.ones(_PAUSE, np.float32), "valid")  # by its first frame
    cuts = [0]
    while length - cuts[-1] > longest:
        first, last = cuts[-1] + int(longest * 2 / 3), cuts[-1] + int(longest) - _PAUSE
        cuts.append(first + int(pause[first : last + 1].argmin()) + _PAUSE // 2)
    return cuts
