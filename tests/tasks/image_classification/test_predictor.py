import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from research.tasks.image_classification.data import DigitPhotographs
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
    predictor = ImageClassification().predictor()
    result = predictor.postprocess([{"probability": p}])
    assert result["class"] == "3"
    assert result["probability"] == pytest.approx(0.7)
    assert list(result["probabilities"]) == list("0123456789")
    assert list(result["probabilities"].values()) == pytest.approx(p.tolist())
    (row,) = predictor.to_rows({"file": "a.png", **result})
    assert list(row) == ["file", "class", "probability", "next"]
    assert row["next"] == "5 0.200, 8 0.100"


def drawn(paper, ink, corner=(30, 10)):
    """Returns a picture with a seven on paper of another size than the data set's images."""
    image = Image.new("RGBA", (100, 120), paper)
    ImageDraw.Draw(image).text(corner, "7", fill=ink, font=ImageFont.load_default(70))
    return image


def test_drawn_digits_become_white_on_black_and_fill_the_image(tmp_path):
    """Whatever the colours and the transparency of the paper, and the place of the digit."""
    predictor, arrays = ImageClassification().predictor(), []
    pictures = [
        drawn("black", "white"),
        drawn("white", "black"),
        drawn((0, 0, 0, 0), "black"),
        drawn("grey", "lightgrey", corner=(5, 30)),
    ]
    for picture in pictures:
        picture.save(tmp_path / "digit.png")
        dataset = predictor.preprocess(str(tmp_path / "digit.png"))
        arrays.append(dataset.example(0, None)["image"][..., 0].astype(int))
    for array in arrays:
        assert array[0].max() > 150 and array[-1].max() > 150
        assert array[-1, [0, -1]].max() < 50  # the stroke of a seven ends between the corners
        assert abs(array - arrays[0]).max() < 8


def test_digits_over_photographs_keep_their_colours(tmp_path):
    predictor = ImageClassification(source=DigitPhotographs()).predictor()
    drawn("white", "red").save(tmp_path / "digit.png")
    image = predictor.preprocess(str(tmp_path / "digit.png")).example(0, None)["image"]
    assert image.max(axis=(0, 1)).tolist() == [255, 255, 255]
    assert image[..., 1].min() < 100 < image[..., 0].min()


def test_an_empty_drawing_is_an_image(tmp_path):
    Image.new("L", (50, 50), 255).save(tmp_path / "blank.png")
    dataset = ImageClassification().predictor().preprocess(str(tmp_path / "blank.png"))
    assert dataset.example(0, None)["image"].shape == (8, 8, 1)
