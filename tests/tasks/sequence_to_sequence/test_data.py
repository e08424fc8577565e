import gzip
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest
import tensorflow_datasets as tfds

from research.common.errors import ConfigError, UserError
from research.tasks.sequence_to_sequence import data
from research.tasks.sequence_to_sequence.data import (
    Pair,
    ParallelText,
    Pronunciations,
    TranslationTFDS,
)

SPLITS = ("train", "validation", "test")


@pytest.fixture(scope="module")
def words() -> dict[str, Sequence[Pair]]:
    return {split: Pronunciations().open(split) for split in SPLITS}


def test_each_word_of_the_dictionary_is_in_one_split(words):
    sources = {split: {pair.source for pair in words[split]} for split in SPLITS}
    every = set(data._dictionary())
    assert set.union(*sources.values()) == every and {"a.m.", "able-bodied"} <= every
    assert sum(map(len, sources.values())) == len(every)
    assert len(sources["test"]) == pytest.approx(0.05 * len(every), rel=0.05)
    assert len(sources["validation"]) == pytest.approx(0.02 * len(every), rel=0.05)


def test_a_word_keeps_its_split_for_ever(words):
    """Else scores could not be compared."""
    first = [[pair.source for pair in words[split][:3]] for split in ("validation", "test")]
    assert first == [["abbe", "abco", "abdel"], ["'frisco", "aaliyah", "abacus"]]


def test_pronunciations_are_learned_one_by_one_and_are_all_right(words):
    tomato = ("T AH M EY T OW", "T AH M AA T OW")
    learned = [pair for pair in words["train"] if pair.source == "tomato"]
    assert [pair.target for pair in learned] == list(tomato)
    assert [pair.references for pair in learned] == [tomato, tomato[::-1]]
    for split in ("validation", "test"):
        assert len({pair.source for pair in words[split]}) == len(words[split])
        assert max(len(pair.references) for pair in words[split]) > 1
        assert all(pair.target == pair.references[0] for pair in words[split])
    assert learned[0].where == "tomato" and not learned[0].fault


def test_stress_is_told_on_demand(words):
    stressed = Pronunciations(stress=True).open("test")
    said = [
        next(pair.references for pair in pairs if pair.source == "permit")
        for pairs in (stressed, words["test"])
    ]
    assert said == [("P ER0 M IH1 T", "P ER1 M IH2 T"), ("P ER M IH T",)]
    assert [pair.target for pair in words["train"] if pair.source == "concave"] == ["K AA N K EY V"]


SENTENCES = (("Zwei Hunde.", "Two dogs."), ("Ein\u2028Hund.", "A\x0bdog."), ("Öl", "oil"))


@pytest.fixture
def write(tmp_path):
    """Writes a text, or bytes as they are, and gives the path."""

    def write(name, content):
        path = tmp_path / name
        if isinstance(content, str):
            content = content.encode()
            content = gzip.compress(content) if name.endswith(".gz") else content
        path.write_bytes(content)
        return str(path)

    return write


@pytest.mark.parametrize(
    ("suffix", "first", "newline", "last"),
    [("", "", "\n", "\n"), (".gz", "", "\n", ""), ("", "\ufeff", "\r\n", "\r\n")],
)
def test_lines_of_two_files_or_two_columns_belong_together(write, suffix, first, newline, last):
    def text(lines):
        return first + newline.join(lines) + last

    german, english = zip(*SENTENCES, strict=True)
    two = write(f"a.de{suffix}", text(german)), write(f"a.en{suffix}", text(english))
    one = (write(f"a.tsv{suffix}", text(map("\t".join, SENTENCES))),)
    for paths in (two, one):
        pairs = ParallelText(train=("-",), test=paths).open("test")
        assert [(pair.source, pair.target) for pair in pairs] == list(SENTENCES)
        assert [pair.references for pair in pairs] == [(text,) for text in english]
        assert [pair.where for pair in pairs] == [f"{paths[0]}:{n}" for n in (1, 2, 3)]
        assert not any(pair.fault for pair in pairs)


def test_some_lines_are_held_out_for_validation(write):
    lines = "\n".join(f"{number}\tn{number}" for number in range(200))
    source = ParallelText(train=(write("a.tsv", lines),), validation_fraction=0.1)
    held, learned = (
        [int(pair.source) for pair in source.open(split)] for split in ("validation", "train")
    )
    assert sorted(held + learned) == list(range(200))
    assert held == sorted(held) and len(held) == 20 and max(held) > 100
    assert list(source.open("validation")) == list(source.open("test"))
    assert [int(pair.source) for pair in source.open("validation")] == held
    few = ParallelText(train=(write("few.tsv", "a\tb\nc\td\n"),))
    assert [len(few.open(split)) for split in SPLITS] == [1, 1, 1]
    with pytest.raises(ConfigError, match="validation_fraction: must lie between 0 and 1"):
        replace(source, validation_fraction=1.0)


def test_with_files_for_validation_all_lines_are_learned(write):
    train, validation, test = (
        (write(f"{split}.tsv", "\n".join([f"{split}\tx"] * count)),)
        for split, count in zip(SPLITS, (5, 2, 3), strict=True)
    )
    source = ParallelText(train=train, validation=validation)
    assert [pair.source for pair in source.open("train")] == ["train"] * 5
    assert [pair.source for pair in source.open("test")] == ["validation"] * 2
    assert [pair.source for pair in replace(source, test=test).open("test")] == ["test"] * 3
    assert len(ParallelText(train=train, test=test).open("validation")) == 1


def test_a_line_without_text_is_named_and_does_no_harm_to_the_others(write):
    path = write("a.tsv", "ja\tyes\n\tno\nnein\t \n")
    pairs = ParallelText(train=("-",), test=(path,)).open("test")
    assert [pair.fault for pair in pairs] == ["", "the source is empty", "the target is empty"]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "train: must name a source and a target, or one TSV file; names 0"),
        ({"a": "", "b": "", "c": ""}, "one TSV file; names 3"),
        (
            {"a.de": "1\n2\n", "a.en": "1\n2\n3"},
            "a.de and /a.en must have as many lines, have 2 and 3",
        ),
        ({"a.tsv": "a\tb\nc d\n"}, "a.tsv:2 must have two columns with a tab between, has 1"),
        ({"a.tsv": "a\tb\tc\n"}, "a.tsv:1 must have two columns with a tab between, has 3"),
        ({"a.de": "1\n2\n", "a.en": "1\n\u00fc\n".encode("latin-1")}, "a.en:2 is not UTF-8"),
        ({"a.de": "", "a.en": ""}, "a.de has no line"),
        ({"a.tsv": "a\tb"}, "train: is too short"),
        ({"a.de": "1", "a.en": None}, "cannot read /a.en (No such file"),
        ({"a.de": "1", "a.en.gz": b"1"}, "cannot read /a.en.gz (Not a gzipped file"),
        (
            {"a.de": "1", "a.en.gz": gzip.compress(b"1")[:-9]},
            "cannot read /a.en.gz (Compressed file",
        ),
    ],
)
def test_files_that_do_not_fit_are_refused(write, tmp_path, files, message):
    paths = tuple(
        str(tmp_path / name) if content is None else write(name, content)
        for name, content in files.items()
    )
    with pytest.raises(ConfigError) as error:
        ParallelText(train=paths).open("train")
    said = str(error.value).replace(f"{tmp_path}", "")
    assert said.startswith("config.train: ") and message in said and "\n" not in said


class Proverbs(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """As TFDS's sets of translations are, and with a feature that is no text."""

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
    return TranslationTFDS("proverbs/de-en", "de", "en", data_dir, validation="train[:1]")


def test_translations_of_tfds(proverbs):
    pairs = proverbs.open("train")
    assert {(pair.source, pair.target) for pair in pairs} == set(SENTENCES)
    back = replace(proverbs, source_language="en", target_language="de").open("train")
    assert {(pair.target, pair.source) for pair in back} == set(SENTENCES)
    assert pairs[1].references == (pairs[1].target,)
    assert pairs[1].where == "proverbs/de-en train:1"
    assert len(proverbs.open("validation")) == 1
    assert {pair.fault for pair in proverbs.open("test")} == {"the target is empty", "is not UTF-8"}


def test_a_translation_is_read_when_it_is_asked_for(proverbs, monkeypatch):
    """There can be millions."""
    read = []

    class Records:
        def __len__(self):
            return 4_500_000

        def __getitem__(self, index):
            read.append(index)
            return {"de": b"%d" % index, "en": b"x"}

    monkeypatch.setattr(data, "open_split", lambda *_, **__: Records())
    pairs = proverbs.open("train")
    assert len(pairs) == 4_500_000 and not read
    assert pairs[7].source == "7" and pairs[-1].source == "4499999"
    assert [pair.source for pair in pairs[10:12]] == ["10", "11"]
    assert read == [7, 4_499_999, 10, 11]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"source_language": "fr"}, "source_language: 'proverbs/de-en' has no 'fr'; known: de, en"),
        ({"target_language": "eng"}, "target_language: 'proverbs/de-en' has no 'eng'; did you"),
        ({"name": "proverbs/dated", "target_language": "year"}, "has no 'year'; known: de, en"),
        ({"target_language": "de"}, "target_language: is 'de', as source_language is"),
        ({"train": "dev"}, "no split 'dev'"),
        ({"name": "wmt14_translate/de-en"}, "make dataset NAME=wmt14_translate/de-en` prepares it"),
    ],
)
def test_what_tfds_lacks_is_named(proverbs, changes, message):
    with pytest.raises(UserError) as error:
        replace(proverbs, **changes).open("train")
    assert message in str(error.value)
