import base64
import io
from itertools import pairwise

import numpy as np
import pytest
import soundfile
from PIL import Image

from research.tasks.speech_recognition.features import LogMel
from research.tasks.speech_recognition.figures import Utterance, spectrogram_and_posterior
from tests.reporting.markup import external, find, text, texts, unnamed

TOKENS = ["a", "b", "<c>"]


def posterior(path, classes):
    """Returns log_probs [frames, classes] in which class `path[i]` is the best of frame i."""
    probability = np.full((len(path), classes), 0.1 / (classes - 1))
    probability[np.arange(len(path)), path] = 0.9
    return np.log(probability)


def utterance(path=(0, 1, 0), classes=4, seconds=1.0, alignment=(), sound=None):
    features = np.random.default_rng(0).normal(size=(int(100 * seconds), 8))
    return Utterance("<heading>", alignment, features, posterior(path, classes), seconds, sound)


def drawn(*utterances, tokens=TOKENS, **options):
    html = spectrogram_and_posterior(utterances, tokens, **options)
    assert not unnamed(html) and not external(html)
    return html


def peaks(html):
    return [one.find("text") for one in find(html, "g", class_="peak")]


def decoded(address):
    return io.BytesIO(base64.b64decode(address.partition(",")[2]))


def test_peaks_are_labelled_with_the_tokens_of_the_best_path():
    html = drawn(utterance((0, 2, 2, 0, 2, 1, 0, 3)))
    assert [one.text for one in peaks(html)] == ["b", "b", "a", "<c>"]
    (svg,) = find(html, "svg")
    left, right = float(svg.get("data-left")), float(svg.get("data-right"))
    times = [(float(one.get("x")) - left) / (right - left) for one in peaks(html)]
    np.testing.assert_allclose(times, np.array([1.5, 4.5, 5.5, 7.5]) / 8, atol=1e-3)
    assert "<c>" not in html and "<heading>" not in html


def test_spectrogram_and_posterior_share_the_time_axis():
    html = drawn(utterance(seconds=2.5))
    (image,), (svg,) = find(html, "image"), find(html, "svg")
    assert image.get("x") == svg.get("data-left")
    assert float(image.get("x")) + float(image.get("width")) == float(svg.get("data-right"))
    assert svg.get("data-seconds") == "2.5000"
    assert "seconds →" in texts(html, "text")


def test_the_first_band_is_at_the_bottom_of_the_spectrogram():
    features = np.zeros((5, 8))
    features[:, 0] = 1
    html = drawn(utterance()._replace(features=features))
    image = Image.open(decoded(find(html, "image")[0].get("href"))).convert("L")
    assert image.size == (5, 8)
    assert image.getpixel((2, 7)) > 200 > 10 >= image.getpixel((2, 0))


def test_bands_of_frequencies_have_an_axis_in_kilohertz():
    hz = LogMel(sample_rate=16000, num_mel_bins=64).band_hz
    html = drawn(utterance(), band_hz=hz[::8])
    labels = {one.text: float(one.get("y")) for one in find(html, "text", text_anchor="end")}
    assert "↑ kHz" in texts(html, "text")
    assert labels["0.5"] > labels["1"] > labels["2"] > labels["4"]
    assert "8" not in labels  # above the centre of the highest band
    assert "↑ feature" in texts(drawn(utterance()), "text")


def test_the_sound_can_be_played():
    wave = np.sin(np.arange(8000) / 9).astype(np.float32) / 2
    html = drawn(utterance(sound=wave))
    (player,) = find(html, "audio")
    assert "controls" in player.attrib and player.get("aria-label") == "Sound of <heading>"
    samples, rate = soundfile.read(decoded(player.get("src")))
    assert rate == 8000
    np.testing.assert_allclose(samples, wave, atol=1e-4)
    assert not find(drawn(utterance()), "audio")


def test_token_labels_do_not_overlap():
    path = [0, *np.tile([1, 2, 3], 40)]
    labels = peaks(drawn(utterance(path), tokens=["▁many", "letters", "here"]))
    rows = {}
    for label in labels:
        half = 7.2 * len(label.text) / 2  # of a letter of 12 pixels
        middle = float(label.get("x"))
        rows.setdefault(label.get("y"), []).append((middle - half, middle + half))
    assert len(labels) == 120
    for row in rows.values():
        assert all(a[1] <= b[0] for a, b in pairwise(row))


def test_long_utterances_and_their_sounds_are_truncated():
    path = [0] * 50 + [1] + [0] * 50 + [2] + [0] * 98
    sound = np.zeros(16 * 1000, np.float32)
    html = drawn(utterance(path, seconds=16.0, sound=sound))
    assert [one.text for one in peaks(html)] == ["a"]
    assert any("the first 8 of 16.0 s" in line for line in texts(html, "p"))
    assert soundfile.info(decoded(find(html, "audio")[0].get("src"))).duration == 8


@pytest.mark.parametrize(
    "log_probs", [posterior([0], 4), posterior([0] * 9, 4), np.full((9, 4), np.nan)]
)
def test_blank_and_nan_posteriors_can_be_drawn(log_probs):
    html = drawn(utterance()._replace(log_probs=log_probs))
    assert "nan" not in text(find(html, "svg")[0]) and "nan," not in html
