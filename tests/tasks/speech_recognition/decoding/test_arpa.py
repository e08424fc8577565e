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


def test_file_and_text_give_the_same_model(tmp_path):
    path = tmp_path / "model.arpa"
    path.write_bytes(("a comment\n\n" + ARPA).replace("\n", "\r\n").encode())
    file, text = parse_arpa(path), parse_arpa(ARPA)
    assert file.words == text.words
    for one, other in zip(file.orders, text.orders, strict=True):
        np.testing.assert_array_equal(one.words, other.words)
        np.testing.assert_array_equal(one.backoff, other.backoff)


def test_other_forms_of_the_unknown_word():
    capital = parse_arpa(ARPA.replace("<unk>", "<UNK>"))
    assert word_log_probs(capital, "x")[0] == pytest.approx((-0.5 - 2) * math.log(10))
    absent = parse_arpa(ARPA.replace("-2.0 <unk>\n", "").replace("1=5", "1=4"))
    assert word_log_probs(absent, "x")[0] == pytest.approx((-0.5 - 100) * math.log(10))


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("\\data\\", "data", r":22: unexpected end of the file"),
        ("\\end\\", "", r":22: unexpected end of the file"),
        ("ngram 2=3", "ngram 3=3", r":3: invalid line 'ngram 3=3': expected 'ngram 2=COUNT'"),
        ("ngram 2=3", "ngram 2=2", r":16: invalid line '-0.45 b a -0.05': expected '\\3-grams:'"),
        ("ngram 2=3", "ngram 2=4", r":17: invalid 2-gram: expected a log probability, 2 words"),
        ("\\2-grams:", "\\4-grams:", r":13: invalid line '\\4-grams:': expected '\\2-grams:'"),
        (
            "-0.6 b -0.2",
            "-0.6 b -0.2 1",
            r":11: invalid 1-gram: .*1 words and optionally a back-off weight",
        ),
        (
            "-0.05 <s> a b",
            "-0.05 <s> a b -1",
            r":19: invalid 3-gram: expected a log probability, 3 words$",
        ),
        (
            "-0.6 b -0.2",
            "-0.6 b low",
            r":11: invalid 1-gram: could not convert string to float: 'low'",
        ),
        ("-0.6 b -0.2", "0.6 b -0.2", r":11: invalid 1-gram: it has an invalid log probability"),
        ("-0.6 b -0.2", "nan b -0.2", r":11: invalid 1-gram: it has an invalid log probability"),
        ("-0.6 b -0.2", "-0.6 b inf", r":11: invalid 1-gram: it has an infinite back-off weight"),
        ("-0.6 b -0.2", "-0.6 a -0.2", r":11: invalid 1-gram: it is listed twice"),
        ("-0.45 b a", "-0.45 <s> a", r":16: invalid 2-gram: it is listed twice"),
        ("-0.45 b a", "-0.45 b x", r":16: invalid 2-gram: 'x' is missing from the 1-grams"),
        (
            "<s> a b",
            "b b b",
            r":19: invalid 3-gram: it has a context that is missing from the 2-grams",
        ),
        ("-0.9 </s>", "-0.9 z", r":11: missing 1-gram </s>"),
    ],
)
def test_errors_name_the_invalid_line(tmp_path, old, new, problem):
    assert old in ARPA
    (tmp_path / "bad.arpa").write_text(ARPA.replace(old, new, 1))
    with pytest.raises(UserError, match=r"bad\.arpa" + problem):
        parse_arpa(tmp_path / "bad.arpa")


def test_missing_and_binary_files_raise(tmp_path):
    with pytest.raises(UserError, match=r"cannot read .*none\.arpa: No such file"):
        parse_arpa(tmp_path / "none.arpa")
    (tmp_path / "packed.arpa").write_bytes(b"\x1f\x8b\x08\xff")
    with pytest.raises(UserError, match=r"packed\.arpa:1: invalid UTF-8"):
        parse_arpa(tmp_path / "packed.arpa")
