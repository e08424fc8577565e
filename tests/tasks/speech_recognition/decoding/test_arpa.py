import math

import numpy as np
import pytest

from research.common.errors import UserError
from research.tasks.speech_recognition.decoding.arpa import parse_arpa, word_log_probs
from tests.tasks.speech_recognition.decoding.models import ARPA


def test_log_probabilities_by_hand():
    arpa = parse_arpa(ARPA)
    by_hand = {
        "a b": [-0.1, -0.05, -0.2 - 0.9],
        "b a b": [-0.5 - 0.6, -0.45, -0.05 - 0.35, -0.2 - 0.9],
        "a x b": [-0.1, -0.7 - 0.3 - 2.0, -0.6, -0.2 - 0.9],
        "": [-0.5 - 0.9],
    }
    for sentence, log10 in by_hand.items():
        expected = np.array(log10) * math.log(10)
        np.testing.assert_allclose(word_log_probs(arpa, sentence), expected, rtol=1e-6)


def test_a_file_is_read_as_its_text_is(tmp_path):
    path = tmp_path / "model.arpa"
    path.write_bytes(("a comment\n\n" + ARPA).replace("\n", "\r\n").encode())
    read, text = parse_arpa(path), parse_arpa(ARPA)
    assert read.words == text.words
    for one, other in zip(read.orders, text.orders, strict=True):
        np.testing.assert_array_equal(one.words, other.words)
        np.testing.assert_array_equal(one.backoff, other.backoff)


def test_other_ways_to_write_the_unknown_word():
    capital = parse_arpa(ARPA.replace("<unk>", "<UNK>"))
    assert word_log_probs(capital, "x")[0] == pytest.approx((-0.5 - 2) * math.log(10))
    absent = parse_arpa(ARPA.replace("-2.0 <unk>\n", "").replace("1=5", "1=4"))
    assert word_log_probs(absent, "x")[0] == pytest.approx((-0.5 - 100) * math.log(10))


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("\\data\\", "data", r":22: the file ends too soon"),
        ("\\end\\", "", r":22: the file ends too soon"),
        ("ngram 2=3", "ngram 3=3", r":3: expected 'ngram 2=COUNT'"),
        ("ngram 2=3", "ngram 2=2", r":16: expected '\\3-grams:', is '-0.45 b a -0.05'"),
        ("ngram 2=3", "ngram 2=4", r":17: expected a log probability, 2 words"),
        ("\\2-grams:", "\\4-grams:", r":13: expected '\\2-grams:', is '\\4-grams:'"),
        ("-0.6 b -0.2", "-0.6 b -0.2 1", r":11: expected a log probability, 1 words and perhaps"),
        ("-0.05 <s> a b", "-0.05 <s> a b -1", r":19: expected a log probability, 3 words$"),
        ("-0.6 b -0.2", "-0.6 b low", r":11: could not convert string to float: 'low'"),
        ("-0.6 b -0.2", "0.6 b -0.2", r":11: the 1-gram is no log probability"),
        ("-0.6 b -0.2", "nan b -0.2", r":11: the 1-gram is no log probability"),
        ("-0.6 b -0.2", "-0.6 b inf", r":11: the 1-gram has a backoff that is not finite"),
        ("-0.6 b -0.2", "-0.6 a -0.2", r":11: the 1-gram is listed twice"),
        ("-0.45 b a", "-0.45 <s> a", r":16: the 2-gram is listed twice"),
        ("-0.45 b a", "-0.45 b x", r":16: 'x' is not among the 1-grams"),
        ("<s> a b", "b b b", r":19: the 3-gram has a context that is not among the 2-grams"),
        ("-0.9 </s>", "-0.9 z", r":11: </s> is not among the 1-grams"),
    ],
)
def test_the_line_that_is_wrong_is_named(tmp_path, old, new, problem):
    assert old in ARPA
    (tmp_path / "bad.arpa").write_text(ARPA.replace(old, new, 1))
    with pytest.raises(UserError, match=r"bad\.arpa" + problem):
        parse_arpa(tmp_path / "bad.arpa")


def test_files_that_are_no_text(tmp_path):
    with pytest.raises(UserError, match=r"none\.arpa: No such file"):
        parse_arpa(tmp_path / "none.arpa")
    (tmp_path / "packed.arpa").write_bytes(b"\x1f\x8b\x08\xff")
    with pytest.raises(UserError, match=r"packed\.arpa:1: is not UTF-8 text"):
        parse_arpa(tmp_path / "packed.arpa")
