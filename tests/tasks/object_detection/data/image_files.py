"""Image files that the tests of COCO and Pascal VOC annotate."""

import logging

from PIL import Image

SPLITS = ("train", "validation", "test")


def save(path, size=(40, 30), grey=0):
    path.parent.mkdir(exist_ok=True)
    Image.new("RGB", size, (grey,) * 3).save(path)


def greys(images):
    """The grey levels of the images, which identify them."""
    return [images.image(i).getpixel((0, 0))[0] for i in range(len(images))]


def warnings(caplog):
    """The warnings about annotations; the splits of these tests share images."""
    return [
        one.getMessage()
        for one in caplog.records
        if one.levelno == logging.WARNING and one.name != "research.data.splits"
    ]
