from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest
import tensorflow_datasets as tfds

from research.common.errors import UserError
from research.tasks.sequence_to_sequence.data import TranslationTFDS

SENTENCES = (("Zwei Hunde.", "Two dogs."), ("Ein\u2028Hund.", "A\x0bdog."), ("Öl", "oil"))


class Proverbs(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """A translation data set like those of TFDS; one config has a feature that is not a text."""

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS: ClassVar = [tfds.core.BuilderConfig(name=name) for name in ("de-en", "dated")]

    def _info(self):
        features = tfds.features.Translation(languages=["de", "en"])
        if self.builder_config.name == "dated":
            features = tfds.features.FeaturesDict({**features, "year": np.int64})
        return self.dataset_info_from_configs(features=features)

    def _split_generators(self, dl_manager):
        return {
            "train": self._examples(SENTENCES),
            "test": self._examples([("Ja", ""), (b"\xfc", "u")]),
        }

    def _generate_examples(self):
        raise NotImplementedError

    def _examples(self, sentences):
        for number, (german, english) in enumerate(sentences):
            year = {"year": 1984} if self.builder_config.name == "dated" else {}
            yield number, {"de": german, "en": english, **year}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds")
    for config in ("de-en", "dated"):
        Proverbs(config=config, data_dir=folder, file_format="array_record").download_and_prepare()
    return str(folder)


@pytest.fixture
def proverbs(data_dir):
    return TranslationTFDS(
        name="proverbs/de-en",
        source_language="de",
        target_language="en",
        data_dir=data_dir,
        validation="train[:1]",
    )


def test_pairs_of_a_prepared_data_set(proverbs):
    pairs = proverbs.open("train")
    assert {(pair.source, pair.target) for pair in pairs} == set(SENTENCES)
    back = replace(proverbs, source_language="en", target_language="de").open("train")
    assert {(pair.target, pair.source) for pair in back} == set(SENTENCES)
    assert pairs[1].references == (pairs[1].target,)
    assert pairs[1].origin == "proverbs/de-en train:1"
    assert len(proverbs.open("validation")) == 1
    assert {pair.problem for pair in proverbs.open("test")} == {
        "the target is empty",
        "is not UTF-8",
    }


def test_pairs_are_read_on_access(proverbs, monkeypatch):
    """A split can have millions of pairs."""
    read = []

    class Records:
        def __len__(self):
            return 4_500_000

        def __getitem__(self, index):
            read.append(index)
            return {"de": b"%d" % index, "en": b"x"}

    monkeypatch.setattr(TranslationTFDS, "records", lambda *_: Records())
    pairs = proverbs.open("train")
    assert len(pairs) == 4_500_000 and not read
    assert pairs[7].source == "7" and pairs[-1].source == "4499999"
    assert [pair.source for pair in pairs[10:12]] == ["10", "11"]
    assert read == [7, 4_499_999, 10, 11]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"source_language": "fr"},
            "source_language: unknown feature 'fr' of 'proverbs/de-en'; known: de, en",
        ),
        (
            {"target_language": "eng"},
            "target_language: unknown feature 'eng' of 'proverbs/de-en'; did you",
        ),
        (
            {"name": "proverbs/dated", "target_language": "year"},
            "unknown feature 'year' of 'proverbs/dated'; known: de, en",
        ),
        (
            {"target_language": "de"},
            "target_language: invalid language 'de': it is source_language too",
        ),
        ({"train": "dev"}, "config.train: no train split: 'proverbs/de-en' has no 'dev'"),
        ({"name": "wmt14_translate/de-en"}, "make dataset NAME=wmt14_translate/de-en` prepares it"),
    ],
)
def test_missing_data_are_named(proverbs, changes, message):
    with pytest.raises(UserError) as error:
        replace(proverbs, **changes).open("train")
    assert message in str(error.value)
