from research.reporting.figures import describe, learning_curves, sort_metrics
from research.task import Metric, percentage
from research.training.metrics import read_metrics
from tests.reporting.markup import find, texts, unnamed

METRICS = {"wer": percentage("word error rate", "lower"), "loss": Metric("loss", "nats")}


def curves(html, title):
    """The curves of a chart by their name, as their values."""
    (chart,) = [one for one in find(html, "figure", class_="chart") if one[0].text == title]
    groups = [one for one in chart.iter("g") if one.get("data-name")]
    return {one.get("data-name"): (one.get("data-x"), one.get("data-y")) for one in groups}


def test_each_metric_has_a_curve(tmp_path, write_metrics):
    write_metrics(tmp_path, 0, [10, 20])
    lines = read_metrics(tmp_path)
    one = learning_curves({"a": lines}).content
    assert texts(one, "figcaption") == ["loss", "accuracy"]
    assert curves(one, "loss") == {
        "train": ("10 20", "0.1 0.05"),
        "validation": ("10 20", "0.2 0.1"),
    }
    two = learning_curves(dict.fromkeys("ab", lines)).content
    assert list(curves(two, "loss")) == ["a, train", "b, train", "a, validation", "b, validation"]
    assert not unnamed(two)


def test_runs_of_a_group_share_colour_and_entry_of_the_legend(tmp_path, write_metrics):
    write_metrics(tmp_path, 0, [10, 20])
    lines = read_metrics(tmp_path)
    groups = {"a": "first", "b": "second", "c": "first"}
    html = learning_curves(dict.fromkeys("abc", lines), groups=groups).content
    assert texts(html, "li") == ["first", "second"]
    shown = [one for one in find(html, "g", class_="series") if one.get("data-name")]
    colours = {one.get("data-name")[0]: one.get("class").split()[1] for one in shown}
    assert colours["a"] == colours["c"] != colours["b"]


def test_metrics_have_titles_units_and_the_order_of_their_task():
    lines = [
        {"step": 1, "split": "validation", "loss": 1.5, "wer": 0.25, "gradient_norm": 2, "more": 1}
    ]
    html = learning_curves({"a": lines}, METRICS).content
    assert texts(html, "figcaption") == ["word error rate", "loss", "more", "gradient norm"]
    assert curves(html, "word error rate") == {"validation": ("1", "25")}
    assert {"↑ %", "↑ nats"} <= set(texts(html, "text"))


def test_parts_of_a_metric_have_a_title_and_no_curve():
    line = {"step": 1, "split": "validation", "wer": 0.5, "wer/<ann>": 0.25}
    html = learning_curves({"a": [line]}, METRICS).content
    assert texts(html, "figcaption") == ["word error rate"]
    assert describe("wer/<ann>", METRICS).title == "word error rate, <ann>"
    assert sort_metrics(["b", "loss", "wer"], METRICS) == ["wer", "loss", "b"]


def test_a_loss_over_orders_of_magnitude_is_logarithmic():
    steep = [{"step": n, "split": "train", "loss": 100 / n**3} for n in range(1, 9)]
    flat = [{"step": n, "split": "train", "loss": 2 / n} for n in range(1, 9)]
    assert "↑ log scale" in texts(learning_curves({"a": steep}).content, "text")
    assert "↑ log scale" not in texts(learning_curves({"a": flat}).content, "text")


def test_a_notebook_shows_a_figure_with_its_style(tmp_path, write_metrics):
    write_metrics(tmp_path, 0, [10])
    html = learning_curves({"a": read_metrics(tmp_path)})._repr_html_()
    assert html.startswith("<style>") and "<main>" in html and "<svg" in html


def test_values_have_units():
    assert percentage("accuracy").text(0.98765) == "98.77 %"
    assert Metric("loss", "nats").text(0.123456) == "0.1235 nats"
    assert Metric("BLEU", scale=100).text(0.3204) == "32.04"
    assert Metric("examples").text(12345) == "12,345"
