import numpy as np
import pytest
from PIL import Image

from research.tasks.image_classification.task import ImageClassification


def test_a_file_is_preprocessed_like_a_test_image(tmp_path):
    task = ImageClassification()
    image = task.dataset("test").arrays["image"][0]
    Image.fromarray(image[..., 0]).save(tmp_path / "digit.png")
    dataset = task.predictor().preprocess(str(tmp_path / "digit.png"))
    loaded = dataset.example(0, np.random.default_rng(0))["image"]
    assert np.array_equal(loaded, image)
    assert (1, *loaded.shape) == task.batch_spec(1, None)["image"].shape


def test_a_result_has_the_most_probable_classes():
    p = np.zeros(10, np.float32)
    p[[3, 5, 8]] = 0.7, 0.2, 0.1
    result = ImageClassification().predictor().postprocess([{"probability": p}])
    assert result["class"] == "3"
    assert result["probability"] == pytest.approx(0.7)
    assert result["next"] == "5 0.200, 8 0.100"
