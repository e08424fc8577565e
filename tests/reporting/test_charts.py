import math

import pytest

from research.reporting.charts import Axis, Series, legend, line_chart
from tests.reporting.markup import find, texts, unnamed


def curve(html):
    """The coordinates of the points of the only curve."""
    (line,) = find(html, "polyline")
    return [tuple(map(float, point.split(","))) for point in line.get("points").split()]


def chart(x, y, across=Axis("step"), up=Axis("loss"), **options):  # noqa: B008
    return line_chart("Loss", across, up, [Series("train", x, y, **options)])


def test_points_lie_between_the_ticks_of_their_values():
    html = chart([0, 40, 100], [0.0, 1.0, 2.0])
    (left, bottom), (middle, _), (right, top) = curve(html)
    assert middle == pytest.approx(left + 0.4 * (right - left), abs=0.1)
    ticks = {one.text: one for one in find(html, "text")}
    for value, x in (("0", left), ("40", middle), ("100", right)):
        below = [one for one in find(html, "text", text_anchor="middle") if one.text == value]
        assert float(below[0].get("x")) == pytest.approx(x)
    assert float(ticks["2"].get("y")) - 4 == pytest.approx(top)
    assert bottom > top  # y grows downwards


def test_values_are_attributes_for_the_script():
    (group,) = find(chart([1, 2], [0.123456, 1e-7]), "g", class_="series")
    assert (group.get("data-x"), group.get("data-y")) == ("1 2", "0.1235 1e-07")
    assert group.get("data-name") == group.get("data-key") == "train"


def test_a_chart_has_a_title_labels_and_a_description():
    html = chart([1, 2], [1, 2])
    assert texts(html, "figcaption") == ["Loss"]
    assert {"↑ loss", "step →"} <= set(texts(html, "text"))
    assert find(html, "svg")[0].get("aria-label") == "Loss, loss over step"
    assert not unnamed(html)


def test_few_points_are_marked():
    assert len(find(chart([1], [2.0]), "circle")) == 1
    assert not find(chart(range(100), range(100)), "circle")


def test_values_that_are_not_finite_are_left_out():
    assert len(curve(chart([1, 2, 3, 4], [1.0, math.nan, math.inf, 2.0]))) == 2
    assert not find(chart([1], [math.nan]), "polyline")


def test_long_curves_are_averaged():
    html = chart(range(10_000), [number % 2 for number in range(10_000)])
    (group,) = find(html, "g", class_="series")
    values = [float(value) for value in group.get("data-y").split()]
    assert len(values) == 400
    assert values == pytest.approx([0.5] * 400, abs=0.03)


@pytest.mark.parametrize("value", [0.0, 5.0, -3.0, 1e-9, 1e12])
def test_constants_can_be_drawn(value):
    points = curve(chart([1, 2], [value, value]))
    assert all(0 <= y <= 224 for _, y in points)


def test_a_logarithmic_axis_has_equal_steps_for_equal_factors():
    html = chart([0, 1, 2], [0.1, 1, 10], up=Axis("loss", log=True))
    (_, low), (_, middle), (_, high) = curve(html)
    assert low - middle == pytest.approx(middle - high, abs=0.2)
    assert "↑ loss, log scale" in texts(html, "text")
    assert {"0.1", "1", "10"} <= set(texts(html, "text"))


def test_a_band_has_its_limits():
    html = chart([0, 1], [5, 5], band=([0, 5], [10, 5]))
    (band,) = find(html, "polygon", class_="band")
    assert len(band.get("points").split()) == 4


def test_large_numbers_are_short():
    shown = texts(chart([0, 1], [0, 30_000_000]), "text")
    assert {"10M", "30M"} <= set(shown)
    assert {"20k", "40k"} <= set(texts(chart([0, 1], [0, 40_000]), "text"))


def test_a_legend_shows_the_appearance_of_its_curves():
    curves = [Series("a", [1], [1], color=1), Series("b", [1], [1], 2, "dashed", key="of b")]
    html = legend({"a": "first", "of b": "second <b>", "absent": "third"}, curves)
    assert texts(html, "li") == ["first", "second <b>"]
    assert [one.get("data-key") for one in find(html, "li")] == ["a", "of b"]
    assert [one.get("class") for one in find(html, "g")] == ["series c1", "series c2 dashed"]
    assert not unnamed(html)
