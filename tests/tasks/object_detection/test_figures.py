import numpy as np
import pytest
from PIL import Image

from research.tasks.object_detection.average_precision import (
    RECALL,
    AveragePrecision,
    ClassCurve,
    ClassPrecision,
)
from research.tasks.object_detection.figures import (
    MAX_CURVES,
    Mark,
    Scene,
    class_scores,
    curves,
    downscaled,
    scene_grid,
)
from tests.reporting.markup import external, find, rows, texts, unnamed


def mark(kind, box, label="cat 0.90"):
    return Mark(kind, np.array(box, np.float32), label)


def scene(size, *marks, heading="image 0"):
    image = Image.new("RGB", size, "grey")
    return Scene(heading, downscaled(image), size, marks)


def outlines(html):
    """The boxes, without the backgrounds of their labels."""
    return [one for one in find(html, "rect") if one.get("class") != "back"]


def corners(rectangle):
    x, y, width, height = (float(rectangle.get(key)) for key in ("x", "y", "width", "height"))
    return np.array([x, y, x + width, y + height])


def measured(*precisions, objects=None):
    """The average precision of classes 0, 1, ... with the given curves."""
    classes = {
        str(i): ClassPrecision(0.1, float(curve.mean()), objects[i] if objects else 5, curve)
        for i, curve in enumerate(precisions)
    }
    return AveragePrecision(0.1, float(np.mean(precisions)), 0.1, classes)


def over_scores(*peaks):
    """Curves whose F1 is a peak of height 0.5."""
    thresholds = np.linspace(0, 1, 101)
    return {
        str(i): ClassCurve(thresholds, 1 - thresholds, 0.5 - np.abs(thresholds - peak) / 2)
        for i, peak in enumerate(peaks)
    }


def drawn(html, title):
    """The curves of a chart by their name, as x and y."""
    (chart,) = [one for one in find(html, "figure", class_="chart") if one[0].text == title]
    groups = [one for one in chart.iter("g") if one.get("data-name")]
    return {
        one.get("data-name"): np.array(
            [one.get("data-x").split(), one.get("data-y").split()], float
        )
        for one in groups
    }


@pytest.mark.parametrize("size", [(128, 128), (640, 480), (480, 640), (4000, 3000), (3, 2)])
def test_boxes_lie_over_their_pixels(size):
    box = np.array([0.1, 0.2, 0.6, 0.9]) * np.tile(size, 2)
    html = scene_grid([scene(size, mark("tp", box))])
    (drawing,), (outline,) = find(html, "svg"), outlines(html)
    _, _, width, height = map(float, drawing.get("viewbox").split())
    assert width / height == pytest.approx(size[0] / size[1])
    fractions = corners(outline) / np.tile([width, height], 2)
    np.testing.assert_allclose(fractions, box / np.tile(size, 2), atol=1e-3)


def test_kinds_of_boxes_have_distinct_styles_and_a_legend():
    marks = [
        mark(kind, (10 + 30 * i, 40, 30 + 30 * i, 60), kind)
        for i, kind in enumerate(("tp", "fn", "fp"))
    ]
    html = scene_grid([scene((128, 128), *marks)])
    assert [one.get("class") for one in outlines(html)] == ["tp", "fp", "fn"]  # fn on top
    assert texts(html, "li") == ["true positive", "false positive", "false negative"]
    assert texts(html, "title") == [
        "true positive: tp",
        "false positive: fp",
        "false negative: fn",
    ]
    assert not unnamed(html) and not external(html)


def test_labels_are_legible():
    """They lie within the image and do not overlap."""
    marks = [
        mark("tp", (x, y, x + 20, y + 16), "potted plant 0.98")
        for x, y in ((0, 0), (2, 110), (100, 2), (104, 108), (50, 60), (55, 66))
    ]
    html = scene_grid([scene((128, 128), *marks)])
    labels = [corners(one) for one in find(html, "rect", class_="back")]
    assert len(labels) == 6
    for number, (left, top, right, bottom) in enumerate(labels):
        assert left >= 0 and top >= 0 and right <= 361 and bottom <= 361
        assert right - left > 17 * 6  # at least six units for a letter
        assert not any(
            min(right, other[2]) > max(left, other[0])
            and min(bottom, other[3]) > max(top, other[1])
            for other in labels[:number]
        )


def test_boxes_without_labels_and_images_without_boxes():
    html = scene_grid([scene((64, 64), mark("gt", (1, 1, 9, 9), "")), scene((64, 64))])
    assert len(outlines(html)) == 1 and not find(html, "rect", class_="back")
    assert texts(html, "figcaption") == ["image 0", "image 0"]
    assert texts(html, "title") == ["ground truth"]


def test_long_class_names_are_shortened_and_escaped():
    html = scene_grid([scene((64, 64), mark("tp", (1, 1, 9, 9), "<b>" + "x" * 50))])
    assert texts(html, "text") == ["<b>" + "x" * 14 + "…"]
    assert "<b>" not in html


def test_large_images_are_downscaled():
    large = Image.new("RGB", (4000, 2000))
    assert downscaled(large).size == (480, 240)
    assert large.size == (4000, 2000)
    assert downscaled(Image.new("RGB", (40, 20))).size == (40, 20)


def test_curves_of_classes_and_of_their_mean():
    one, two = np.ones(101), np.where(RECALL <= 0.5, 0.8, 0.0)
    figure = curves(measured(one, two), over_scores(0.2, 0.4))
    precision = drawn(figure.content, "Precision over recall")
    np.testing.assert_allclose(precision["0"], [RECALL, one], atol=1e-4)
    np.testing.assert_allclose(precision["1"][:, [0, -2, -1]], [[0, 0.5, 0.51], [0.8, 0.8, 0]])
    np.testing.assert_allclose(precision["mean"][1, [0, -1]], [0.9, 0.5])
    f1 = drawn(figure.content, "F1 over confidence")
    assert f1["0"][0, f1["0"][1].argmax()] == 0.2
    assert f1["mean"][1].max() == pytest.approx(0.45)
    assert "highest, 0.45, with scores of at least 0.2" in figure.caption
    assert texts(figure.content, "li") == [
        *("0: AP50 1.00", "1: AP50 0.40", "mean of 2 classes: AP50 0.70")
    ]
    assert not unnamed(figure.content)


def test_a_single_class_has_no_mean_curve():
    figure = curves(measured(np.zeros(101)), over_scores(0.5))
    assert texts(figure.content, "li") == ["0: AP50 0.00"]


def test_of_many_classes_those_with_the_most_objects_are_drawn():
    precision = measured(*[np.ones(101)] * 12, objects=[1, *range(3, 14)])
    figure = curves(precision, over_scores(*[0.5] * 12))
    names = [entry.partition(":")[0] for entry in texts(figure.content, "li")]
    assert names == [*map(str, range(12 - MAX_CURVES, 12)), "mean of 12 classes"]
    assert f"Curves of the {MAX_CURVES} of 12 classes with the most objects" in figure.caption


def test_classes_are_listed_with_their_scores_at_the_threshold():
    figure = class_scores(measured(np.ones(101)), over_scores(0.3), 0.3)
    assert rows(figure.content)[1] == ["0", "0.100", "1.000", "0.300", "0.700", "0.500", "5"]
    assert "at least 0.3" in figure.caption
