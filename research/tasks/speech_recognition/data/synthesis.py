"""Synthetic speech by eSpeak NG, a formant synthesizer with hundreds of voices.

eSpeak NG (https://github.com/espeak-ng/espeak-ng) is licensed under the GPL, version 3. It is
therefore an optional extra, loaded when a `Synthesizer` is made and used by nothing but the source
of spoken digits; no other module imports it.
"""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock

import numpy as np

from research.common.errors import UserError

# File names of eSpeak's kinds of English; "en" is British. Shavian is left out: a script.
ACCENTS = (
    *("en", "en-029", "en-gb-scotland", "en-gb-x-gbclan", "en-gb-x-gbcwmd", "en-gb-x-rp"),
    *("en-us", "en-us-nyc"),
)

# Variants that are no use as speakers. "Unclear" are those of whose digits PocketSphinx 5 gets more
# than twice as many wrong as of the plain voice's.
_WHISPERS = "caleb whisper whisperf"
_ROBOTS = (
    "UniRobot anikaRobot announcer RicishayMax RicishayMax2 RicishayMax3 robosoft robosoft2"
    " robosoft3 robosoft4 robosoft5 robosoft6 robosoft7 robosoft8"
)
_UNCLEAR = (
    "Alicia AnxiousAndy Demonic Lee Marco Michael Tweaky boris gustave ian kaukovalta marcelo"
    " norbert shelby travis zac"
)
_SAME_AS_PLAIN = "fast"
_NOT_REPRODUCIBLE = "Reed"  # draws its breath from the C library's random numbers
_UNFIT = {*f"{_WHISPERS} {_ROBOTS} {_UNCLEAR} {_SAME_AS_PLAIN} {_NOT_REPRODUCIBLE}".split()}

# From eSpeak NG's speak_lib.h.
_SYNCHRONOUS, _DONT_EXIT, _UTF8, _POSITION_CHARACTER = 2, 0x8000, 1, 1
_RATE, _PITCH, _RANGE, _WORD_GAP = 1, 3, 4, 7
_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)
_BUFFER_MS = 1000

_lock = Lock()


class Synthesizer:
    """eSpeak NG as a pure function: the same arguments give the same samples, in any order.

    The library keeps state from one utterance to the next (the phase of the pitch's flutter, the
    memories of filters, random generators), most of which no call of its resets, and has that state
    once per process. So it is loaded anew for each utterance, by one thread at a time; nobody else
    in the process may keep it loaded.

    Raises:
      UserError: eSpeak NG is not installed.
    """

    def __init__(self) -> None:
        try:
            import espeakng_loader
        except ImportError:
            raise UserError(
                "eSpeak NG is not installed; `make setup` installs it,"
                " or pip install espeakng-loader"
            ) from None
        self._library = espeakng_loader.get_library_path()
        self._data = Path(espeakng_loader.get_data_path())
        variants = {path.name for path in (self._data / "voices" / "!v").iterdir()} - _UNFIT
        endings = ("", *(f"+{variant}" for variant in variants))
        self._voices = tuple(sorted(accent + ending for accent in ACCENTS for ending in endings))

    def voices(self) -> tuple[str, ...]:
        """Every accent with and without each variant that is fit, such as "en-us+f3", sorted."""
        return self._voices

    def speak(
        self,
        text: str,
        voice: str,
        rate_wpm: int = 175,
        pitch: int = 50,
        pitch_range: int = 50,
        word_gap: int = 0,
    ) -> tuple[np.ndarray, int]:
        """Text as sound: float32 [samples] in [-1, 1], and the sample rate in Hz.

        The silence at both ends is eSpeak's, 12 ms and 10 ms at most.

        Args:
          text: in English; without anything to say it gives a moment of silence.
          voice: one of `voices()`.
          rate_wpm: words per minute, from 80 to 450.
          pitch: from 0 to 99 around the voice's own, which is 50.
          pitch_range: from 0, monotonous, to 99.
          word_gap: pause between words, in units of 10 ms at the default rate.

        Raises:
          UserError: there is no such voice.
        """
        if voice not in self._voices:  # eSpeak would quietly take the accent without the variant
            raise UserError(
                f"eSpeak NG has no voice '{voice}' of use; take one from Synthesizer().voices()"
            )
        parameters = {_RATE: rate_wpm, _PITCH: pitch, _RANGE: pitch_range, _WORD_GAP: word_gap}
        with _lock, _loaded(self._library) as library:
            pcm, sample_rate = _synthesize(library, self._data, text, voice, parameters)
        return np.frombuffer(pcm, np.int16).astype(np.float32) / 32768, sample_rate


@contextmanager
def _loaded(path: str) -> Iterator[ctypes.CDLL]:
    """The library with the state that it has when a process starts."""
    library = ctypes.CDLL(path)
    try:
        yield library
    finally:
        library.espeak_Terminate()
        ctypes.CDLL(None).dlclose(ctypes.c_void_p(library._handle))


def _synthesize(
    library: ctypes.CDLL, data: Path, text: str, voice: str, parameters: dict[int, int]
) -> tuple[bytes, int]:
    """Samples as int16, and the sample rate."""
    chunks = []

    def collect(samples: int | None, count: int, events: int) -> int:
        if samples:
            chunks.append(ctypes.string_at(samples, 2 * count))
        return 0  # go on

    callback = _Callback(collect)
    flags = ctypes.c_int(_DONT_EXIT)
    sample_rate = library.espeak_Initialize(_SYNCHRONOUS, _BUFFER_MS, bytes(data), flags)
    if sample_rate <= 0 or library.espeak_SetVoiceByName(voice.encode()):
        raise UserError(
            f"eSpeak NG cannot read {data}; install it anew, at a path of less than 160 characters"
        )
    library.espeak_SetSynthCallback(callback)
    for parameter, value in parameters.items():
        library.espeak_SetParameter(parameter, value, 0)
    library.espeak_ng_SetRandSeed(ctypes.c_long(1))  # else the clock
    encoded = text.encode()
    size = ctypes.c_size_t(len(encoded) + 1)
    status = library.espeak_Synth(encoded, size, 0, _POSITION_CHARACTER, 0, _UTF8, None, None)
    if status:
        raise RuntimeError(f"espeak_Synth failed with status {status}")
    return b"".join(chunks), sample_rate
