"""Where the utterances come from: a manifest, a folder, TensorFlow Datasets, or a synthesizer."""

import io
import json
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any, BinaryIO

import numpy as np
import soundfile
import soxr

from research.common.config import suggest
from research.common.errors import ConfigError, UserError
from research.data.audio import read_audio
from research.data.tfds import StoredAudio, builder, open_split
from research.tasks.speech_recognition.features import Given, LogMel
from research.tasks.speech_recognition.synthesis import Synthesizer

Features = LogMel | Given
_SPLITS = ("train", "validation", "test")
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

    def part(self, chosen: Iterable[int]) -> "Corpus":
        """Some of the utterances, by index."""
        indices = list(chosen)
        utterances = [self.utterances[i] for i in indices]
        return Corpus(utterances, lambda index: self.read(indices[index]))


@dataclass(frozen=True)
class SpokenDigits:
    """Strings of digits spoken by eSpeak NG; nothing is downloaded.

    Speed, pitch, intonation and pauses are drawn for each utterance, and its voice from those of
    the split. eSpeak's voices are accents times speakers: the speakers are dealt out to the splits,
    so that nobody is heard in two of them.
    """

    train_utterances: int = 6000
    """So many are spoken to learn from."""

    test_utterances: int = 500
    """So many for validation, and as many for the test."""

    most_digits: int = 7
    """An utterance has from one to so many."""

    def __post_init__(self):
        for key in ("train_utterances", "test_utterances", "most_digits"):
            if getattr(self, key) < 1:
                raise ConfigError(key, f"must be at least 1, is {getattr(self, key)}")

    def open(self, split: str, features: Features) -> Corpus:
        """The utterances of a split, spoken in some twenty seconds and kept in memory."""
        if isinstance(features, Given):
            raise ConfigError("type", "SpokenDigits gives audio; set features to LogMel")
        return _speak(self, split, features.sample_rate)


@lru_cache(maxsize=3)  # a run opens its training split to learn its lengths, and to learn from it
def _speak(source: SpokenDigits, split: str, sample_rate: int) -> Corpus:
    synthesizer = Synthesizer()
    voices = _voices(synthesizer.voices(), split)
    count = source.train_utterances if split == "train" else source.test_utterances

    def speak(index: int) -> tuple[str, str, np.ndarray]:
        rng = np.random.default_rng((_SPLITS.index(split), index))
        text = " ".join(rng.choice(DIGITS, rng.integers(1, source.most_digits + 1)))
        voice = voices[rng.integers(len(voices))]
        audio, rate = synthesizer.speak(
            text,
            voice,
            rate_wpm=int(rng.integers(110, 280)),
            pitch=int(rng.integers(15, 85)),
            pitch_range=int(rng.integers(10, 90)),
            word_gap=int(rng.integers(0, 12)),
        )
        # Resampling overshoots where a voice is loud; 16 bits would wrap around to a click.
        audio = soxr.resample(audio, rate, sample_rate).clip(-1, 1)
        return text, voice, (audio * 32767).astype(np.int16)

    with ThreadPoolExecutor() as pool:
        spoken = list(pool.map(speak, range(count)))
    utterances = [
        Utterance(f"spoken digits {split}:{index}", text, len(audio) / sample_rate, voice)
        for index, (text, voice, audio) in enumerate(spoken)
    ]
    return Corpus(utterances, lambda index: spoken[index][2] / np.float32(32767))


def _voices(names: Sequence[str], split: str) -> list[str]:
    """Those of a split: of every ten speakers one is kept for the test, and one for validation."""
    speakers = sorted({name.partition("+")[2] for name in names})
    order = np.random.default_rng(0).permutation(len(speakers))
    place = {speakers[speaker]: place % 10 for place, speaker in enumerate(order)}
    kept = {"test": {0}, "validation": {1}, "train": set(range(2, 10))}[split]
    return [name for name in names if place[name.partition("+")[2]] in kept]


@dataclass(frozen=True)
class FreeSpokenDigits:
    """Recordings `{digit}_{speaker}_{take}.wav` in a folder: the Free Spoken Digit Dataset.

    https://github.com/Jakobovski/free-spoken-digit-dataset: of each speaker's takes of each digit
    the first five are the test, as its authors have it.
    """

    path: str
    """The folder with the recordings."""

    test_speaker: str = ""
    """Test on all takes of this speaker, of whom nothing is learned; empty: on takes 0 to 4."""

    def open(self, split: str, features: Features) -> Corpus:
        """The utterances of a split."""
        files = sorted(Path(self.path).glob("[0-9]_*_*.wav"))
        if not files:
            raise ConfigError("path", f"{self.path} holds no file like 3_theo_14.wav")
        names = [file.stem.split("_") for file in files]
        speakers = sorted({speaker for _, speaker, _ in names})
        if self.test_speaker and self.test_speaker not in speakers:
            known = suggest(self.test_speaker, speakers)
            raise ConfigError("test_speaker", f"no '{self.test_speaker}' in {self.path}; {known}")
        utterances = [
            _with_length(Utterance(file.name, DIGITS[int(digit)], speaker=speaker), file, features)
            for file, (digit, speaker, _) in zip(files, names, strict=True)
        ]
        corpus = Corpus(utterances, lambda index: read_input(files[index], features))
        splits = [self._split(speaker, int(take)) for _, speaker, take in names]
        return corpus.part(i for i, chosen in enumerate(splits) if chosen == split)

    def _split(self, speaker: str, take: int) -> str:
        test = speaker == self.test_speaker if self.test_speaker else take < 5
        return "test" if test else "validation" if 5 <= take < 8 else "train"


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
        utterances = [_with_length(row, file, features) for row, file in rows]
        return Corpus(utterances, lambda index: read_input(files[index], features))


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
        found = [pair for part in getattr(self, split) for pair in self._part(part)]
        utterances = [_with_length(utterance, file, features) for utterance, file in found]
        files = [file for _, file in found]
        return Corpus(utterances, lambda index: read_input(files[index], features))

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


@dataclass(frozen=True)
class SpeechTFDS:
    """A data set of TensorFlow Datasets with audio and a text or a class, as ArrayRecord."""

    name: str
    """As in TFDS's catalogue, such as "librispeech" or "speech_commands"."""

    sample_rate: int = 0
    """Of its audio, in Hz; 0: what TFDS tells, which it does of most data sets."""

    audio: str = "speech"
    """The feature that holds the sound: samples of 16 bits, or sound files."""

    text: str = "text"
    """The feature that holds what is said: a text, or a class whose name is taken."""

    data_dir: str = ""
    """Where the data sets lie; empty: `TFDS_DATA_DIR`, else `~/tensorflow_datasets`."""

    train: str = "train"
    """The split to learn from, in TFDS's notation."""

    validation: str = "validation"
    """The split to choose by."""

    test: str = "test"
    """The split to report."""

    def __post_init__(self):
        if self.sample_rate < 0:
            raise ConfigError("sample_rate", f"must not be negative, is {self.sample_rate}")

    def open(self, split: str, features: Features) -> Corpus:
        """The utterances of a split; opening it reads all of them once, for their lengths."""
        if isinstance(features, Given):
            raise ConfigError("type", "SpeechTFDS gives audio; set features to LogMel")
        sound, text = self._features()
        rate = self.sample_rate or sound.sample_rate
        if not rate and not sound.encoded:
            raise ConfigError("sample_rate", f"TFDS does not tell that of '{self.name}'; set it")
        named = text.int2str if hasattr(text, "num_classes") else _as_text
        records = open_split(self.name, getattr(self, split), self.data_dir, raw=())

        def listed(index: int) -> Utterance:
            record = records[index]
            stored = record[self.audio]
            utterance = Utterance(f"{self.name} {split}:{index}", named(record[self.text]))
            if sound.encoded:
                return _with_length(utterance, io.BytesIO(stored), features)
            return replace(utterance, seconds=len(stored) / rate)

        def read(index: int) -> np.ndarray:
            stored = records[index][self.audio]
            if sound.encoded:
                return read_audio(stored, features.sample_rate)
            samples = np.atleast_2d(stored.T).mean(axis=0, dtype=np.float32) / 32768
            return soxr.resample(samples, rate, features.sample_rate)

        return Corpus([listed(index) for index in range(len(records))], read)

    def _features(self) -> tuple[StoredAudio, Any]:
        """What TFDS knows of the audio and of the text."""
        known = builder(self.name, self.data_dir).info.features
        for key in ("audio", "text"):
            if getattr(self, key) not in known:
                hint = suggest(getattr(self, key), known)
                raise ConfigError(key, f"'{self.name}' has no such feature; {hint}")
        if not isinstance(known[self.audio], StoredAudio):
            raise ConfigError("audio", f"'{self.audio}' of '{self.name}' is no audio")
        return known[self.audio], known[self.text]


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


def _with_length(utterance: Utterance, file: Path | BinaryIO, features: Features) -> Utterance:
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


def _as_text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _some(names: Sequence[str], fraction: float) -> set[str]:
    """The same share of the names each time, one at least."""
    count = max(1, round(len(names) * fraction))
    return set(np.random.default_rng(0).permutation(np.array(names))[:count].tolist())
