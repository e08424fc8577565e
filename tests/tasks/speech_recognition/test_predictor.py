import dataclasses

import numpy as np
import pytest
import soundfile

from research.common.errors import UserError
from tests.tasks.speech_recognition.conftest import RATE, synthesize


def test_long_file_is_predicted_in_consecutive_segments(task, tmp_path):
    task = dataclasses.replace(task, bucket_seconds=(1.0, 2.0)).resolve()
    soundfile.write(tmp_path / "long.wav", synthesize(["lo", "hi", "mid"] * 8), RATE)
    parts = task.predictor().preprocess(str(tmp_path / "long.wav"))
    assert len(parts) > 4 and set(parts.buckets) == {RATE, 2 * RATE}
    audio = [parts.example(i, np.random.default_rng(0))["input"] for i in range(len(parts))]
    assert sum(map(len, audio)) == round(24 * 0.35 * RATE)
    prediction = {
        "tokens": np.array(task.tokenizer.encode("lo hi")),
        "token_count": np.array(5),
        "first_frame": np.array([0, 1, 3, 5, 6]),
        "last_frame": np.array([0, 2, 4, 5, 7]),
        "seconds": np.array(1.5),
    }
    row = task.predictor().postprocess([prediction, prediction | {"token_count": np.array(2)}])
    assert row["text"] == "lo hi lo" and row["seconds"] == 3.0
    frame = 0.04
    times = [(word["start"], word["end"]) for word in row["words"]]
    expected = [(0, 3 * frame), (5 * frame, 8 * frame), (1.5, 1.5 + 3 * frame)]
    np.testing.assert_allclose(times, expected, atol=1e-6)


def test_silent_file_raises(task, tmp_path):
    soundfile.write(tmp_path / "silent.wav", np.zeros(4000), RATE)
    with pytest.raises(UserError, match="silent"):
        task.resolve().predictor().preprocess(tmp_path / "silent.wav")
