import io

import numpy as np
import pytest
from PIL import Image, ImageFile

from research.common.errors import UserError
from research.data.images import decode, fit, image_size, random_resized_crop, to_array


def gradient(width, height):
    columns = np.broadcast_to(np.linspace(0, 255, width).astype(np.uint8), (height, width))
    return Image.fromarray(np.stack([columns] * 3, -1))


def encoded(image, kind="PNG", orientation=1):
    """The bytes of a file; 6 is to be shown turned by a quarter."""
    buffer, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = orientation
    image.save(buffer, kind, exif=exif)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("mode", "channels"), [("RGBA", 3), ("L", 3), ("P", 1), ("1", 1), ("RGB", 1)]
)
def test_any_mode_becomes_the_channels_asked_for(mode, channels):
    image = decode(encoded(gradient(10, 6).convert(mode)), channels)
    array = to_array(image)
    assert array.shape == (6, 10, channels)
    assert array.dtype == np.uint8


def test_what_is_no_image_is_named(tmp_path):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(encoded(gradient(64, 64), "JPEG")[:300])
    text = tmp_path / "text.png"
    text.write_text("no image")
    for path in (broken, text, tmp_path / "absent.png"):
        with pytest.raises(UserError, match=path.name):
            decode(path, 3)


def test_fit_keeps_proportions_and_the_centre():
    array = to_array(fit(gradient(100, 50), 10, 10, 1.0))
    assert array.shape == (10, 10, 3)
    # The central square of a gradient from 0 to 255 spans a quarter to three quarters of it.
    assert 60 < array[0, 0, 0] < 85
    assert 170 < array[0, -1, 0] < 195


def test_fit_stays_inside_at_every_size():
    """The window's edges are fractions, and Pillow refuses one a hair outside."""
    for width in range(1, 260):
        for height in (28, 29, 30):
            assert to_array(fit(gradient(width, height), 28, 28, 1.0)).shape == (28, 28, 3)


def test_a_camera_s_turn_is_undone():
    turned = encoded(gradient(10, 6), "JPEG", orientation=6)
    assert to_array(decode(turned, 3)).shape == (10, 6, 3)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_the_size_is_that_of_the_decoded_image(kind, tmp_path):
    for orientation in range(1, 9):
        data = encoded(gradient(40, 20), kind, orientation)
        (tmp_path / "image").write_bytes(data)
        assert image_size(data) == image_size(tmp_path / "image") == decode(data, 3).size


def test_only_the_head_of_an_image_is_read_for_its_size(monkeypatch):
    monkeypatch.setattr(ImageFile.ImageFile, "load", None)
    assert image_size(encoded(gradient(40, 20), "JPEG", orientation=8)) == (20, 40)


def test_the_size_of_what_is_no_image_is_refused(tmp_path):
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(UserError, match=r"text\.png: cannot be read as an image"):
        image_size(tmp_path / "text.png")


def test_sixteen_bits_become_eight():
    deep = Image.fromarray(np.full((4, 4), 20_000, np.uint16))
    assert to_array(decode(encoded(deep), 1)).max() == 20_000 // 256


def test_fit_leaves_an_image_of_the_right_size_alone():
    image = gradient(8, 8)
    assert np.array_equal(to_array(fit(image, 8, 8, 0.875)), to_array(image))


def test_random_crops_vary_with_the_generator_alone():
    crops = [
        to_array(random_resized_crop(gradient(60, 40), 16, 16, 0.1, np.random.default_rng(seed)))
        for seed in (0, 0, 1)
    ]
    assert all(crop.shape == (16, 16, 3) for crop in crops)
    assert np.array_equal(crops[0], crops[1])
    assert not np.array_equal(crops[0], crops[2])
