from research.tasks.sequence_to_sequence.data.encoding import EncodedPairs, Limit, PackedPairs
from research.tasks.sequence_to_sequence.data.pairs import Pair
from research.tasks.sequence_to_sequence.data.parallel_text import ParallelText
from research.tasks.sequence_to_sequence.data.pronunciations import Pronunciations
from research.tasks.sequence_to_sequence.data.tfds import TranslationTFDS

__all__ = [
    "EncodedPairs",
    "Limit",
    "PackedPairs",
    "Pair",
    "ParallelText",
    "Pronunciations",
    "TranslationTFDS",
]
