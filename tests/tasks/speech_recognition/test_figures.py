from itertools import pairwise

import numpy as np
import pytest

from research.tasks.speech_recognition.figures import Utterance, spectrogram_and_posterior
from tests.reporting.drawing import drawn, extents, texts


def posterior(path, classes):
    """Returns log_probs [frames, classes] in which class `path[i]` is the best of frame i."""
    probability = np.full((len(path), classes), 0.1 / (classes - 1))
    probability[np.arange(len(path)), path] = 0.9
    return np.log(probability)


def utterance(path=(0, 1, 0), classes=4, seconds=1.0, alignment=()):
    features = np.random.default_rng(0).normal(size=(int(100 * seconds), 8))
    return Utterance("heading", alignment, features, posterior(list(path), classes), seconds)


def test_peaks_are_labelled_with_the_tokens_of_the_best_path():
    figure = drawn(
        spectrogram_and_posterior([utterance((0, 2, 2, 0, 2, 1, 0, 3))], ["a", "b", "c"])
    )
    axes = figure.axes[-1]
    assert [text.get_text() for text in axes.texts] == ["b", "b", "a", "c"]
    times = [text.get_position()[0] for text in axes.texts]
    np.testing.assert_allclose(times, np.array([1.5, 4.5, 5.5, 7.5]) / 8)
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["blank"]


def test_spectrogram_and_posterior_share_the_time_axis():
    figure = drawn(spectrogram_and_posterior([utterance(seconds=2.5)], ["a", "b", "c"]))
    above, below = figure.axes[-2:]
    assert above.get_xlim() == below.get_xlim() == (0, 2.5)
    assert above.get_position().x0 == below.get_position().x0
    assert above.get_position().x1 == below.get_position().x1
    assert above.get_position().y0 > below.get_position().y1


def test_token_labels_do_not_overlap():
    path = [0, *np.tile([1, 2, 3], 40)]
    figure = drawn(spectrogram_and_posterior([utterance(path)], ["▁many", "letters", "here"]))
    boxes = extents(figure, figure.axes[-1:])
    rows = {}
    for box in boxes:
        rows.setdefault(round(box.y0), []).append(box)
    assert len(boxes) == 120
    assert 1 < len(rows) < 8  # the labels need about five rows
    for row in rows.values():
        assert all(a.x1 <= b.x0 for a, b in pairwise(row))


def test_long_utterances_are_truncated():
    path = [0] * 50 + [1] + [0] * 50 + [2] + [0] * 98
    figure = drawn(spectrogram_and_posterior([utterance(path, seconds=16.0)], ["a", "b", "c"]))
    assert [text.get_text() for text in figure.axes[-1].texts] == ["a"]
    assert figure.axes[-1].get_xlim() == (0, 8)
    np.testing.assert_allclose(figure.axes[-1].texts[0].get_position()[0], 50.5 * 16 / 200)
    assert any("8 of 16.0 s" in text for text in texts(figure))


@pytest.mark.parametrize(
    "log_probs", [posterior([0], 4), posterior([0] * 9, 4), np.full((9, 4), np.nan)]
)
def test_blank_and_nan_posteriors_can_be_drawn(log_probs):
    drawn(spectrogram_and_posterior([utterance()._replace(log_probs=log_probs)], ["a", "b", "c"]))
