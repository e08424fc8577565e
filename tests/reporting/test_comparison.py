import json
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import t as student

from research.common.errors import UserError
from research.common.files import read_json
from research.reporting.report import write_report
from research.reporting.runs import evaluation_file
from research.reporting.seeds import difference
from tests.reporting.markup import find, rows, text, texts, unnamed


def compared(*workdirs):
    return write_report(workdirs, workdirs[0].parent / "comparison.html").read_text()


def table_below(page, heading):
    """The rows of the first table after a heading."""
    return rows(page.partition(f"<h3>{heading}</h3>")[2].partition("</table>")[0])


def test_runs_are_compared_in_a_table_with_the_best_values_bold(make_run):
    one = make_run("one", {"loss": 0.5, "accuracy": 0.9})
    two = make_run("two", {"loss": 0.25, "accuracy": 0.8}, figures=())
    page = compared(one, two)
    header, first, second = rows(page)[:3]
    assert header[:3] == ["run", "test accuracy", "test loss"]
    assert first[:3] == ["one", "90.00 %", "0.5 nats"]
    assert second[:3] == ["two", "80.00 %", "0.25 nats"]
    assert texts(page, "b") == ["90.00 %", "0.25 nats"]
    assert not unnamed(page)


def score_the_validation_split(workdir):
    """Changes an evaluation to that of data without a test split."""
    path = workdir / evaluation_file("test")
    path.write_text(json.dumps(read_json(path) | {"split": "validation"}))
    return workdir


def test_scores_are_named_after_their_split(make_run):
    runs = [score_the_validation_split(make_run(name, {"loss": 0.5}, seed=name)) for name in "ab"]
    page = compared(*runs)
    assert rows(page)[0][:2] == ["run", "validation loss"]
    assert table_below(page, "Seeds")[0] == ["run", "seeds", "validation loss"]


def test_scores_of_different_splits_are_not_compared(make_run):
    """Neither is the best one of both, nor is their difference tested."""
    runs = [make_run(f"a{i}", {"loss": 0.5 + i / 8}, seed=i) for i in range(2)]
    runs += [make_run(f"b{i}", {"loss": 0.25 + i / 8}, seed=i, batch_size=8) for i in range(2)]
    for run in runs[2:]:
        score_the_validation_split(run)
    page = compared(*runs)
    assert rows(page)[0][:3] == ["run", "test loss", "validation loss"]
    assert rows(page)[1][:3] == ["a0", "0.5 nats", "-"]
    assert rows(page)[3][:3] == ["b0", "-", "0.25 nats"]
    assert texts(page, "b") == ["0.5 nats", "0.25 nats"]
    assert "Welch" not in page


def test_the_metrics_of_seeds_are_those_of_all_runs(make_run):
    """Also of a group whose first run is not evaluated yet."""
    first = make_run("a")
    (first / evaluation_file("test")).unlink()
    page = compared(first, make_run("b", {"loss": 0.5}, seed=1))
    assert table_below(page, "Seeds")[0] == ["run", "seeds", "test loss"]


@pytest.mark.parametrize("broken", [float("nan"), float("inf"), float("-inf")])
def test_a_score_that_is_not_finite_is_never_the_best(make_run, broken):
    scores = ({"loss": broken, "accuracy": broken}, {"loss": 0.5, "accuracy": 0.25})
    page = compared(*(make_run(str(i), score, batch_size=i) for i, score in enumerate(scores)))
    assert rows(page)[1][:3] == ["0", "nan %", "nan nats"]
    assert texts(page, "b") == ["25.00 %", "0.5 nats"]
    broken_cells = [one for one in find(page, "td", class_="number") if "nan" in text(one)]
    assert [one.get("data-value") for one in broken_cells] == [None, None]


def test_a_group_with_a_score_that_is_not_finite_has_no_significance(seeds):
    path = seeds[-1] / evaluation_file("test")
    path.write_text(json.dumps(read_json(path) | {"metrics": {"accuracy": None}}))
    page = compared(*seeds)
    assert table_below(page, "Seeds")[1:] == [
        ["8_0 and 2 more", "3", "81.00 ± 1.00 %"],
        ["64_0 and 2 more", "3", "nan %"],
    ]
    assert "Welch" not in page


def test_only_config_keys_that_differ_are_listed(make_run):
    page = compared(make_run("a", batch_size=8), make_run("b", batch_size=64))
    assert table_below(page, "Differences of the configs") == [
        ["key", "a", "b"],
        ["batch_size", "8", "64"],
    ]
    assert "The configs are equal." in compared(make_run("c"), make_run("d"))


def test_curves_are_overlaid(make_run):
    page = compared(make_run("a", batch_size=8), make_run("b", batch_size=64))
    (legend,) = find(page, "ul", class_="legend")
    assert [text(entry) for entry in legend] == ["a", "b"]
    names = [one.get("data-name") for one in find(page, "g", class_="series")]
    assert names.count("a, validation") == names.count("b, validation") == 2


def test_figures_of_a_title_are_side_by_side(make_run):
    page = compared(make_run("a", figures=("Dots", "Lines")), make_run("b", figures=("Lines",)))
    sections = {text(one.find("summary")): one for one in find(page, "details")}
    assert list(sections) == ["Dots", "Lines"]
    assert [text(one) for one in sections["Lines"].iter("h4")] == ["a", "b"]
    assert all("open" in one.attrib for one in sections.values())


def test_figures_of_many_runs_are_closed(make_run):
    page = compared(*(make_run(str(number)) for number in range(4)))
    assert not any("open" in one.attrib for one in find(page, "details"))


def test_tasks_have_sections_of_their_own(make_run):
    """Figures, curves and differences of configs of two tasks are never under one heading."""
    page = compared(
        make_run("image", {"accuracy": 0.5}, figures=("Confusion matrix",)),
        make_run("boxes", {"ap": 0.5}, figures=("Confusion matrix",), task="ObjectDetection"),
        make_run("words", {"wer": 0.5}, task="SequenceToSequence"),
        make_run("sentences", {"bleu": 0.5}, task="SequenceToSequence"),
    )
    sections = find(page, "section")
    names = ["ImageClassification", "ObjectDetection", "SequenceToSequence", "SequenceToSequence"]
    assert [text(one.find("h2")) for one in sections] == names
    for section, run in zip(sections, ("image", "boxes", "words", "sentences"), strict=True):
        assert {text(one) for one in section.iter("h4")} == {run}


def test_runs_of_one_name_are_told_apart_by_their_path(make_run):
    page = compared(make_run("x/a"), make_run("y/a"))
    assert [row[0].endswith(("x/a", "y/a")) for row in rows(page)[1:3]] == [True, True]


def test_a_run_that_is_listed_twice_is_refused(make_run, monkeypatch):
    """Its curves and colours are found by its name."""
    workdir = make_run("a")
    monkeypatch.chdir(workdir.parent)
    with pytest.raises(UserError, match=r"invalid workdirs: .*a is listed several times"):
        write_report([workdir, Path("a")], workdir.parent / "comparison.html")
    assert not (workdir.parent / "comparison.html").exists()


@pytest.fixture
def seeds(make_run):
    """Two configs with three seeds each."""
    return [
        make_run(f"{size}_{seed}", {"accuracy": base + 0.01 * seed}, batch_size=size, seed=seed)
        for size, base in ((8, 0.8), (64, 0.9))
        for seed in range(3)
    ]


def test_runs_that_differ_by_their_seed_have_mean_and_deviation(seeds):
    page = compared(*seeds[:3])
    assert table_below(page, "Seeds") == [
        ["run", "seeds", "test accuracy"],
        ["8_0 and 2 more", "3", "81.00 ± 1.00 %"],
    ]
    assert texts(page, "ul", class_="legend") == ["8_0 and 2 more"]
    assert "Welch" not in page


def test_groups_of_seeds_are_tested_for_significance(seeds):
    page = compared(*seeds)
    below = page.partition("Welch")[2].partition("<table>")[2]
    line = rows(below.partition("</table>")[0])[1]
    assert line[:3] == ["64_0 and 2 more", "test accuracy", "10.00 pp"]
    assert line[3] == "7.73 to 12.27" and float(line[4]) == pytest.approx(0.00026, abs=2e-5)


def test_the_difference_of_two_groups_is_that_of_welch():
    """With unequal variances: 1 and 20/3 of 3 and 4 runs, a squared standard error of 2."""
    found = difference([1.0, 2.0, 3.0], [4.0, 6.0, 8.0, 10.0])
    freedom = 2**2 / ((1 / 3) ** 2 / 2 + (20 / 12) ** 2 / 3)
    half = student.ppf(0.975, freedom) * np.sqrt(2)
    assert (found.mean, found.low, found.high) == pytest.approx((5, 5 - half, 5 + half))
    assert found.p == pytest.approx(2 * student.sf(5 / np.sqrt(2), freedom))


def test_single_runs_and_constant_scores_have_no_significance():
    assert difference([1.0], [2.0, 3.0]) is None
    assert difference([1.0, 1.0], [2.0, 2.0]) is None
