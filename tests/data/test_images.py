import io

import numpy as np
import pytest
from PIL import Image, ImageFile

from research.common.errors import UserError
from research.data.images import (
    decode,
    image_size,
    random_resized_crop,
    resized_center_crop,
    to_array,
)


def gradient(width, height):
    columns = np.broadcast_to(np.linspace(0, 255, width).astype(np.uint8), (height, width))
    return Image.fromarray(np.stack([columns] * 3, -1))


def encoded(image, kind="PNG", orientation=1):
    """Returns an encoded image with an EXIF orientation; 6 is a quarter turn."""
    buffer, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = orientation
    image.save(buffer, kind, exif=exif)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("mode", "channels"), [("RGBA", 3), ("L", 3), ("P", 1), ("1", 1), ("RGB", 1)]
)
def test_any_mode_is_converted_to_the_channels(mode, channels):
    image = decode(encoded(gradient(10, 6).convert(mode)), channels)
    array = to_array(image)
    assert array.shape == (6, 10, channels)
    assert array.dtype == np.uint8


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
@pytest.mark.parametrize("channels", [1, 3])
def test_transparent_pixels_are_white(mode, channels):
    """The hidden colour of a transparent pixel is often black, like the drawing itself."""
    image = Image.new("RGBA", (2, 1), (0, 0, 0, 0))
    image.putpixel((1, 0), (0, 0, 0, 255))
    image = image.quantize() if mode == "P" else image.convert(mode)
    array = to_array(decode(encoded(image), channels))
    assert array.tolist() == [[[255] * channels, [0] * channels]]


def test_an_unreadable_image_is_an_error(tmp_path):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(encoded(gradient(64, 64), "JPEG")[:300])
    text = tmp_path / "text.png"
    text.write_text("no image")
    for path in (broken, text, tmp_path / "absent.png"):
        with pytest.raises(UserError, match=path.name):
            decode(path, 3)


def test_a_resized_center_crop_keeps_the_aspect_ratio():
    array = to_array(resized_center_crop(gradient(100, 50), 10, 10, 1.0))
    assert array.shape == (10, 10, 3)
    # The central square of a gradient from 0 to 255 spans its second and third quarter.
    assert 60 < array[0, 0, 0] < 85
    assert 170 < array[0, -1, 0] < 195


def test_a_resized_center_crop_works_for_every_size():
    """The crop's edges are fractions, and Pillow refuses an edge outside of the image."""
    for width in range(1, 260):
        for height in (28, 29, 30):
            assert to_array(resized_center_crop(gradient(width, height), 28, 28, 1.0)).shape == (
                28,
                28,
                3,
            )


def test_the_exif_orientation_is_applied():
    turned = encoded(gradient(10, 6), "JPEG", orientation=6)
    assert to_array(decode(turned, 3)).shape == (10, 6, 3)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_image_size_is_the_size_of_the_decoded_image(kind, tmp_path):
    for orientation in range(1, 9):
        data = encoded(gradient(40, 20), kind, orientation)
        (tmp_path / "image").write_bytes(data)
        assert image_size(data) == image_size(tmp_path / "image") == decode(data, 3).size


def test_image_size_reads_only_the_header(monkeypatch):
    monkeypatch.setattr(ImageFile.ImageFile, "load", None)
    assert image_size(encoded(gradient(40, 20), "JPEG", orientation=8)) == (20, 40)


def test_image_size_of_an_unreadable_image_is_an_error(tmp_path):
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(UserError, match=r"cannot read image .*text\.png: unknown image format"):
        image_size(tmp_path / "text.png")


def test_16_bit_images_are_scaled_to_8_bits():
    deep = Image.fromarray(np.full((4, 4), 20_000, np.uint16))
    assert to_array(decode(encoded(deep), 1)).max() == 20_000 // 256


def test_the_crop_fraction_is_the_side_of_the_crop():
    array = to_array(resized_center_crop(gradient(256, 256), 16, 16, 0.5)).astype(int)
    # The middle half of a gradient from 0 to 255, less half a pixel of the result on each side.
    assert array[0, 0, 0] == pytest.approx(68, abs=2)
    assert array[0, -1, 0] == pytest.approx(187, abs=2)


def test_an_image_of_the_right_size_is_not_cropped():
    image = gradient(8, 8)
    assert np.array_equal(to_array(resized_center_crop(image, 8, 8, 0.875)), to_array(image))


def test_random_crops_depend_only_on_the_generator():
    crops = [
        to_array(random_resized_crop(gradient(60, 40), 16, 16, 0.1, np.random.default_rng(seed)))
        for seed in (0, 0, 1)
    ]
    assert all(crop.shape == (16, 16, 3) for crop in crops)
    assert np.array_equal(crops[0], crops[1])
    assert not np.array_equal(crops[0], crops[2])


def random_boxes(height, width, min_area, count=200):
    """Returns left, top, width and height of random crops of a square, as fractions of its side.

    The red and green values of the square are the positions of its columns and rows.
    """
    columns, rows = np.meshgrid(np.arange(256, dtype=np.uint8), np.arange(256, dtype=np.uint8))
    square = Image.fromarray(np.stack([columns, rows, rows], -1))
    boxes = []
    for seed in range(count):
        rng = np.random.default_rng(seed)
        array = to_array(random_resized_crop(square, height, width, min_area, rng)) / 256
        (left, right), (top, bottom) = array[0, [0, -1], 0], array[[0, -1], 0, 1]
        # The centres of the outer pixels are half a pixel inside of the crop.
        columns, rows = (right - left) / (width - 1), (bottom - top) / (height - 1)
        boxes.append((left - columns / 2, top - rows / 2, columns * width, rows * height))
    return np.array(boxes).T


def test_random_crops_have_the_area_and_the_aspect_ratio_of_szegedy():
    """Area from `min_area` to 1, and 3:4 to 4:3 times the result's ratio (Szegedy et al. 2014)."""
    _, _, width, height = random_boxes(20, 30, min_area=0.25)
    assert 0.23 < (width * height).min() < 0.3 and (width * height).max() > 0.6
    ratio = width / height / (30 / 20)
    assert 0.72 < ratio.min() < 0.8 and 1.25 < ratio.max() < 1.37


def test_random_crops_reach_every_edge_of_the_image():
    left, top, width, height = random_boxes(20, 30, min_area=0.05)
    for margin in (left, top, 1 - left - width, 1 - top - height):
        assert margin.min() == pytest.approx(0, abs=0.02)
