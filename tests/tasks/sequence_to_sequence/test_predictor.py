"""Predictions from texts with a trained run."""

from dataclasses import replace

import numpy as np
import pytest

from research.common.errors import UserError
from research.data.tokenizers import Characters
from research.predict import predict
from research.tasks.sequence_to_sequence.decoding import Decoding
from research.training.evaluation import evaluate
from research.training.program import Program


@pytest.mark.slow
def test_predictions_match_the_evaluation(run):
    task = run.program.task
    texts = [pair.source for pair in task.dataset("test").pairs]
    rows = list(predict(run, texts))
    assert [row["text"] for row in rows] == texts
    correct = [row["output"] == text[::-1] for row, text in zip(rows, texts, strict=True)]
    results, _ = evaluate(run.program, run.state, task.dataset("test"))
    assert 1 - np.mean(correct) == pytest.approx(results["wer"])


@pytest.mark.slow
def test_n_best_outputs_are_sorted_by_score(run):
    task = replace(run.program.task, decoding=Decoding(beam_size=4, n_best=3))
    wide = replace(run, program=Program(replace(run.program.experiment, task=task)))
    (row,) = predict(wide, ["abcdef"])
    scores = [one["score"] for one in row["n_best"]]
    assert scores == sorted(scores, reverse=True) and len(scores) == 3
    assert row["output"] == row["n_best"][0]["output"]
    assert all(isinstance(one["ended"], bool) for one in row["n_best"])
    assert row["output 3"] == row["n_best"][2]["output"]


@pytest.mark.parametrize(
    ("text", "spelling", "unknown"),
    [
        ("ABCdef", "abcdef", "'A', 'B', 'C'"),
        ("äbc", "abc", "'ä'"),
        ("ÄB", "ab", "'Ä', 'B'"),
        ("ÀBÇ", "abc", "'À', 'B', 'Ç'"),
        ("a\u0308bc", "abc", "'\u0308'"),
    ],
)
def test_texts_are_spelled_with_known_characters(task, caplog, text, spelling, unknown):
    predictor = task.resolve().predictor()
    caplog.clear()
    expected = predictor.preprocess(spelling)
    assert not caplog.text
    found = predictor.preprocess(text)
    assert found.classes(0)[0].tolist() == expected.classes(0)[0].tolist()
    (warning,) = caplog.messages
    assert warning == f"'{text}' is read as '{spelling}': unknown characters {unknown}"


def test_a_known_character_is_not_replaced_by_a_simpler_one(task, caplog):
    tokenizer = Characters(" ABCabcä")
    task = replace(task.resolve(), input_tokenizer=tokenizer)
    caplog.clear()
    found = task.predictor().preprocess("a\u0308B")
    assert found.classes(0)[0].tolist() == [8, 3, 0]
    assert caplog.messages == ["'a\u0308B' is read as 'äB': unknown characters '\u0308'"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (" ", "invalid text ' ': expected at least one visible character"),
        ("a\udcff", "expected UTF-8; convert it"),
        ("xyz", "invalid text 'xyz': unknown characters 'x', 'y', 'z'"),
        ("ABCXé", "invalid text 'ABCXé': unknown characters 'x': not in"),
        ("abcdefabcdef", "expected at most max_length=12 tokens, got 13; split it"),
    ],
)
def test_invalid_texts_are_refused(task, text, message):
    with pytest.raises(UserError, match=message):
        task.resolve().predictor().preprocess(text)
