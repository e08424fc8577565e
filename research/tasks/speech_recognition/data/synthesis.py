"""Speech synthesis by eSpeak NG, a formant synthesizer with hundreds of voices.

eSpeak NG (https://github.com/espeak-ng/espeak-ng) is licensed under the GPL, version 3. It is
therefore an optional extra: creating a `Synthesizer` loads it, and only the source `SpokenDigits`
creates one.
"""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock

import numpy as np

from research.common.errors import UserError

# File names of eSpeak's English voices; "en" is British. Shavian is a script, not an accent.
ACCENTS = (
    *("en", "en-029", "en-gb-scotland", "en-gb-x-gbclan", "en-gb-x-gbcwmd", "en-gb-x-rp"),
    *("en-us", "en-us-nyc"),
)

# Variants unsuitable as speakers. On digits of the "unclear" ones, PocketSphinx 5 makes more than
# twice as many errors as on those of the default voice.
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
_NOT_REPRODUCIBLE = "Reed"  # uses the C library's random numbers for its breath noise
_EXCLUDED = {*f"{_WHISPERS} {_ROBOTS} {_UNCLEAR} {_SAME_AS_PLAIN} {_NOT_REPRODUCIBLE}".split()}

# From eSpeak NG's speak_lib.h.
_SYNCHRONOUS, _DONT_EXIT, _UTF8, _POSITION_CHARACTER = 2, 0x8000, 1, 1
_RATE, _PITCH, _RANGE, _WORD_GAP = 1, 3, 4, 7
_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)
_BUFFER_MS = 1000

_lock = Lock()


class Synthesizer:
    """eSpeak NG as a pure function: the same arguments give the same samples, in any order.

    The library has process-wide state that lasts from one utterance to the next (the phase of the
    pitch flutter, filter memories, random generators) and no function that resets all of it.
    Therefore each utterance loads the library anew, in one thread at a time. No other code in the
    process may keep it loaded.

    Raises:
      UserError: eSpeak NG is not installed.
    """

    def __init__(self) -> None:
        try:
            import espeakng_loader
        except ImportError:
            raise UserError(
                "missing package: eSpeak NG is not installed; run `make setup`"
                " or `pip install espeakng-loader`"
            ) from None
        self._library = espeakng_loader.get_library_path()
        self._data = Path(espeakng_loader.get_data_path())
        variants = {path.name for path in (self._data / "voices" / "!v").iterdir()} - _EXCLUDED
        endings = ("", *(f"+{variant}" for variant in variants))
        self._voices = tuple(sorted(accent + ending for accent in ACCENTS for ending in endings))

    def voices(self) -> tuple[str, ...]:
        """Returns the sorted names of all accents, with and without a variant ("en-us+f3")."""
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
        """Synthesises a text.

        Args:
          text: in English; an empty text gives a short silence.
          voice: one of `voices()`.
          rate_wpm: words per minute, from 80 to 450.
          pitch: from 0 to 99; 50 is the voice's default.
          pitch_range: from 0, monotonous, to 99.
          word_gap: pause between words in units of 10 ms at the default rate.

        Returns:
          float32 [samples] in [-1, 1], with up to 12 ms of silence at the start and 10 ms at the
          end, and the sample rate in Hz.

        Raises:
          UserError: the voice is unknown.
        """
        if voice not in self._voices:  # eSpeak would ignore an unknown variant
            raise UserError(
                f"unknown voice '{voice}' of eSpeak NG: expected one of Synthesizer().voices()"
            )
        parameters = {_RATE: rate_wpm, _PITCH: pitch, _RANGE: pitch_range, _WORD_GAP: word_gap}
        with _lock, _loaded(self._library) as library:
            pcm, sample_rate = _synthesize(library, self._data, text, voice, parameters)
        return np.frombuffer(pcm, np.int16).astype(np.float32) / 32768, sample_rate


@contextmanager
def _loaded(path: str) -> Iterator[ctypes.CDLL]:
    """Loads the library with its initial state, and unloads it afterwards."""
    library = ctypes.CDLL(path)
    try:
        yield library
    finally:
        library.espeak_Terminate()
        ctypes.CDLL(None).dlclose(ctypes.c_void_p(library._handle))


def _synthesize(
    library: ctypes.CDLL, data: Path, text: str, voice: str, parameters: dict[int, int]
) -> tuple[bytes, int]:
    """Returns 16-bit samples as bytes, and the sample rate in Hz."""
    chunks = []

    def collect(samples: int | None, count: int, events: int) -> int:
        if samples:
            chunks.append(ctypes.string_at(samples, 2 * count))
        return 0  # continue

    callback = _Callback(collect)
    flags = ctypes.c_int(_DONT_EXIT)
    sample_rate = library.espeak_Initialize(_SYNCHRONOUS, _BUFFER_MS, bytes(data), flags)
    if sample_rate <= 0 or library.espeak_SetVoiceByName(voice.encode()):
        raise UserError(
            f"cannot read the data of eSpeak NG in {data}: reinstall it at a path of less than "
            "160 characters"
        )
    library.espeak_SetSynthCallback(callback)
    for parameter, value in parameters.items():
        library.espeak_SetParameter(parameter, value, 0)
    library.espeak_ng_SetRandSeed(ctypes.c_long(1))  # by default it uses the clock
    encoded = text.encode()
    size = ctypes.c_size_t(len(encoded) + 1)
    status = library.espeak_Synth(encoded, size, 0, _POSITION_CHARACTER, 0, _UTF8, None, None)
    if status:
        raise RuntimeError(f"espeak_Synth failed with status {status}")
    return b"".join(chunks), sample_rate
