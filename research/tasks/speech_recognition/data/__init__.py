"""Sources of transcribed utterances."""

from research.tasks.speech_recognition.data.corpus import Corpus, Features, Utterance, read_input
from research.tasks.speech_recognition.data.examples import Segments, TranscribedUtterances
from research.tasks.speech_recognition.data.free_spoken_digits import FreeSpokenDigits
from research.tasks.speech_recognition.data.librispeech import LibriSpeech
from research.tasks.speech_recognition.data.manifest import Manifest
from research.tasks.speech_recognition.data.spoken_digits import SpokenDigits
from research.tasks.speech_recognition.data.tfds import SpeechTFDS

__all__ = [
    "Corpus",
    "Features",
    "FreeSpokenDigits",
    "LibriSpeech",
    "Manifest",
    "Segments",
    "SpeechTFDS",
    "SpokenDigits",
    "TranscribedUtterances",
    "Utterance",
    "read_input",
]
