"""Translation data sets of TensorFlow Datasets."""

from collections.abc import Sequence
from dataclasses import dataclass

import tensorflow_datasets as tfds

from research.common.errors import ConfigError
from research.data.tfds import TFDSSource
from research.tasks.sequence_to_sequence.data.pairs import LazyPairs, Pair, pair_with_one_reference


@dataclass(frozen=True, kw_only=True)
class TranslationTFDS(TFDSSource):
    """A TFDS data set with the same text in several languages, prepared as ArrayRecord."""

    source_language: str
    """Feature with the source text, such as "de"."""

    target_language: str
    """Feature with the target text, such as "en"."""

    def __post_init__(self):
        if self.source_language == self.target_language:
            problem = f"invalid language '{self.target_language}': it is source_language too"
            raise ConfigError("target_language", f"{problem}; select another one")

    def open(self, split: str) -> Sequence[Pair]:
        """Returns the pairs of a split, each read from its file on access."""
        features = self.features().items()
        known = [key for key, kind in features if isinstance(kind, tfds.features.Text)]
        self.check_features("source_language", "target_language", known=known)
        records = self.records(split)

        def read(index: int) -> Pair:
            record, where = records[index], f"{self.name} {split}:{index}"
            try:
                source = record[self.source_language].decode()
                target = record[self.target_language].decode()
            except UnicodeDecodeError:
                return Pair("", "", ("",), where, "is not UTF-8")
            return pair_with_one_reference(source, target, where)

        return LazyPairs(range(len(records)), read)
