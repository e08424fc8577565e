import numpy as np
from PIL import Image

from research.reporting.elements import Number, confusion_matrix, gallery, picture, shades, table
from tests.reporting.markup import find, parse, rows, text, unnamed


def test_a_table_sorts_numbers_by_their_value():
    html = table(("name", "size"), [("a<b", Number("1,200", 1200)), ("c", "-")], [True, False])
    assert rows(html) == [["name", "size"], ["a<b", "1,200"], ["c", "-"]]
    (cell,) = find(html, "td", data_value="1200")
    assert cell.get("class") == "number"
    assert [row.get("class") for row in parse(html).iter("tr")] == ["head", "changed", None]


def test_pictures_have_a_description_and_small_ones_sharp_pixels():
    small = picture(Image.new("L", (8, 8)), 'a "digit"')
    large = picture(Image.new("RGB", (200, 100)), "a photograph")
    (one,), (other,) = find(small, "img"), find(large, "img")
    assert one.get("alt") == 'a "digit"' and one.get("src").startswith("data:image/png;base64,")
    assert one.get("class") == "pixelated" and other.get("class") is None
    assert other.get("src").startswith("data:image/jpeg;base64,")
    assert not unnamed(gallery([(small, "<x>"), (large, "y")], "5rem"))


def test_shades_are_opaque_where_values_are_high():
    image = shades(np.array([[0, 0.5, 1, np.nan, 2]]))
    assert [image.getpixel((x, 0))[3] for x in range(5)] == [0, 128, 255, 0, 255]


def test_a_confusion_matrix_has_counts_and_marks_errors():
    html = confusion_matrix(np.array([[9, 1], [0, 4]]), ("cat", "<b>"), ("cat", "<b>"))
    assert rows(html)[1:] == [["cat", "9", "1"], ["<b>", "", "4"]]
    cells = {cell.get("title"): cell for cell in find(html, "td") if cell.get("title")}
    wrong = cells["true cat, predicted <b>: 1 (10.0 % of the row)"]
    right = cells["true cat, predicted cat: 9 (90.0 % of the row)"]
    assert wrong.get("class") == "c1" and right.get("class") == "c0"
    assert "<b>" not in str(html)


def test_a_large_confusion_matrix_is_a_picture_with_the_most_frequent_confusions():
    counts = np.diag(np.full(50, 10))
    counts[3, 4], counts[5, 6] = 2, 7
    names = [f"class {number}" for number in range(50)]
    html = confusion_matrix(counts, names, names)
    (image,) = find(html, "img")
    assert (image.get("width"), image.get("height")) == ("50", "50")
    assert rows(html)[1:] == [
        ["class 5", "class 6", "7", "41.2 %"],
        ["class 3", "class 4", "2", "16.7 %"],
    ]
    assert not unnamed(html)
    assert text(parse(html))
