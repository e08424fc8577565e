import gzip
from dataclasses import replace

import pytest

from research.common.errors import ConfigError
from research.data.splits import SPLITS, warn_once
from research.tasks.sequence_to_sequence.data import ParallelText

SENTENCES = (("Zwei Hunde.", "Two dogs."), ("Ein\u2028Hund.", "A\x0bdog."), ("Öl", "oil"))


@pytest.fixture
def write(tmp_path):
    """Returns a function that writes a text, or bytes, and returns the path."""

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
def test_pairs_are_lines_of_two_files_or_columns_of_one(write, suffix, first, newline, last):
    def text(lines):
        return first + newline.join(lines) + last

    german, english = zip(*SENTENCES, strict=True)
    two = write(f"a.de{suffix}", text(german)), write(f"a.en{suffix}", text(english))
    one = (write(f"a.tsv{suffix}", text(map("\t".join, SENTENCES))),)
    for paths in (two, one):
        pairs = ParallelText(train=("-",), test=paths).open("test")
        assert [(pair.source, pair.target) for pair in pairs] == list(SENTENCES)
        assert [pair.references for pair in pairs] == [(text,) for text in english]
        assert [pair.origin for pair in pairs] == [f"{paths[0]}:{n}" for n in (1, 2, 3)]
        assert not any(pair.problem for pair in pairs)


def test_a_fraction_of_the_lines_is_held_out_for_validation(write):
    lines = "\n".join(f"{number}\tn{number}" for number in range(200))
    source = ParallelText(train=(write("a.tsv", lines),), validation_fraction=0.1)
    held, kept = (
        [int(pair.source) for pair in source.open(split)] for split in ("validation", "train")
    )
    assert sorted(held + kept) == list(range(200))
    assert held == sorted(held) and len(held) == 20 and max(held) > 100
    assert list(source.open("validation")) == list(source.open("test"))
    assert [int(pair.source) for pair in source.open("validation")] == held
    few = ParallelText(train=(write("few.tsv", "a\tb\nc\td\n"),))
    assert [len(few.open(split)) for split in SPLITS] == [1, 1, 1]
    with pytest.raises(ConfigError, match="validation_fraction: invalid fraction"):
        replace(source, validation_fraction=1.0)


def test_with_validation_files_no_line_is_held_out(write):
    train, validation, test = (
        (write(f"{split}.tsv", "\n".join([f"{split}\tx"] * count)),)
        for split, count in zip(SPLITS, (5, 2, 3), strict=True)
    )
    source = ParallelText(train=train, validation=validation)
    assert [pair.source for pair in source.open("train")] == ["train"] * 5
    assert [pair.source for pair in source.open("test")] == ["validation"] * 2
    assert [pair.source for pair in replace(source, test=test).open("test")] == ["test"] * 3
    assert len(ParallelText(train=train, test=test).open("validation")) == 1


def test_a_pair_with_an_empty_text_is_faulty(write):
    path = write("a.tsv", "ja\tyes\n\tno\nnein\t \n")
    pairs = ParallelText(train=("-",), test=(path,)).open("test")
    assert [pair.problem for pair in pairs] == ["", "the source is empty", "the target is empty"]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "train: invalid number of files 0: expected a source and a target file"),
        ({"a": "", "b": "", "c": ""}, "invalid number of files 3"),
        (
            {"a.de": "1\n2\n", "a.en": "1\n2\n3"},
            "invalid /a.en: expected 2 lines, as in /a.de, got 3",
        ),
        ({"a.tsv": "a\tb\nc d\n"}, "a.tsv:2: expected two tab-separated columns, got 1"),
        ({"a.tsv": "a\tb\tc\n"}, "a.tsv:1: expected two tab-separated columns, got 3"),
        ({"a.de": "1\n2\n", "a.en": "1\n\u00fc\n".encode("latin-1")}, "a.en:2 is not UTF-8"),
        ({"a.de": "", "a.en": ""}, "invalid /a.de: expected at least one line"),
        ({"a.tsv": "a\tb"}, "validation_fraction: cannot hold out 0.02 of 1 examples"),
        ({"a.de": "1", "a.en": None}, "missing file /a.en; check the path"),
        ({"a.de": "1", "a.en.gz": b"1"}, "cannot read /a.en.gz (Not a gzipped file"),
        (
            {"a.de": "1", "a.en.gz": gzip.compress(b"1")[:-9]},
            "cannot read /a.en.gz (Compressed file",
        ),
    ],
)
def test_invalid_files_are_refused(write, tmp_path, files, message):
    paths = tuple(
        str(tmp_path / name) if content is None else write(name, content)
        for name, content in files.items()
    )
    with pytest.raises(ConfigError) as error:
        ParallelText(train=paths).open("train")
    text = str(error.value).replace(f"{tmp_path}", "")
    assert text.startswith("config.") and message in text and "\n" not in text


def test_pairs_of_the_training_split_in_others_are_named(write, caplog):
    warn_once.cache_clear()
    train = (write("train.tsv", "a\tb\nc\td\n"),)
    test = (write("test.tsv", "c\td\nc\tx\n"),)
    ParallelText(train=train, test=test, validation=test).open("train")
    assert "1 test example is in the training split too" in caplog.text
    assert f"{test[0]}:1 = {train[0]}:2" in caplog.text
