"""Reports of real figures in Chromium: no script error, nothing clipped, nothing loaded."""

import numpy as np
import pytest

from research.data.dataset import ArrayDataset
from research.reporting.report import write_report
from research.reporting.runs import save_evaluation
from research.tasks.image_classification.scorer import ClassificationScorer
from tests.reporting.browser import COMMAND, Browser
from tests.tasks.object_detection.test_scorer import A, B, detections, objects
from tests.tasks.object_detection.test_scorer import scored as detected
from tests.tasks.sequence_to_sequence.test_scorer import TOMATO, PronunciationScorer
from tests.tasks.sequence_to_sequence.test_scorer import scored as decoded
from tests.tasks.speech_recognition.test_scorer import RecordingDataset
from tests.tasks.speech_recognition.test_scorer import scored as transcribed

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(COMMAND is None, reason="Chromium is missing"),
]
# Elements that extend beyond the viewport without a container that scrolls.
CLIPPED = """
[...document.querySelectorAll("main *")].filter(one =>
  one.checkVisibility() && one.getBoundingClientRect().right > innerWidth + 1
  && !one.closest(".scroll, .tall, .matrices figure")).map(one => one.outerHTML.slice(0, 200))
"""


def image_figures():
    rng = np.random.default_rng(0)
    label, p = rng.integers(0, 12, 60), rng.dirichlet(np.ones(12), 60)
    scorer = ClassificationScorer(tuple(f"a long name {i}" for i in range(12)))
    scorer.update({"index": np.arange(60), "label": label}, {"probability": p})
    images = rng.integers(0, 255, (60, 32, 32, 3), np.uint8)
    return scorer.figures(ArrayDataset(image=images, label=label))


def figures_of(task):
    if task == "ImageClassification":
        return image_figures()
    if task == "ObjectDetection":
        scorer, dataset = detected([objects((A, 0), (B, 1))], [detections((A, 0.9, 0))])
    elif task == "SpeechRecognition":
        scorer, dataset = transcribed(["a b c d"], ["a c c d d"]), RecordingDataset()
    else:
        scorer, dataset = decoded(PronunciationScorer, [TOMATO] * 3, ["T AH M EY D"] * 3)
    return scorer.figures(dataset)


@pytest.fixture
def make_report(make_run, tmp_path):
    """Returns a function that writes the report of some runs of a task."""

    def make(task, runs):
        workdirs = [make_run(f"run{i}", {"loss": 0.5}, task=task, seed=i) for i in range(runs)]
        for workdir in workdirs:
            record = {"metrics": {"loss": 0.5}, "notes": [], "step": 20}
            save_evaluation(workdir, "test", record, figures_of(task))
        return write_report(workdirs, tmp_path / "report.html")

    return make


TASKS = ("ImageClassification", "ObjectDetection", "SpeechRecognition", "SequenceToSequence")


# The lowest contrast of a text with the background behind it, and that text; WCAG 2.2 demands 4.5,
# and 3 for large text. Names of boxes have a background of their own, a shape.
FAINTEST = """(() => {
  const context = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
  const paint = colors => {
    for (const color of colors) {
      context.fillStyle = color;
      context.fillRect(0, 0, 1, 1);
    }
    return [...context.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const luminance = color => {
    const [r, g, b] = color.map(value => {
      const part = value / 255;
      return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const found = [];
  for (const one of document.querySelectorAll("main, main *")) {
    const hasText = [...one.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
    if (!hasText || !one.checkVisibility() || one.closest(".boxes")) continue;
    const style = getComputedStyle(one), behind = [];
    for (let parent = one; parent; parent = parent.parentElement)
      behind.unshift(getComputedStyle(parent).backgroundColor);
    const color = one.namespaceURI.endsWith("svg") ? style.fill : style.color;
    const [low, high] = [paint(behind), paint([...behind, color])].map(luminance)
      .sort((a, b) => a - b);
    const isLarge = parseFloat(style.fontSize) >= 24;
    found.push([(isLarge ? 1.5 : 1) * (high + 0.05) / (low + 0.05), one.outerHTML.slice(0, 200)]);
  }
  return found.reduce((a, b) => a[0] <= b[0] ? a : b);
})()"""


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("runs", [1, 3])
@pytest.mark.parametrize("task", TASKS)
def test_a_report_fits_screens_of_all_sizes(task, runs, dark, make_report):
    path = make_report(task, runs)
    for width in (400, 1400):
        with Browser(width, dark) as browser:
            browser.open(path)
            assert browser.evaluate(CLIPPED) == []
            assert browser.evaluate("document.documentElement.scrollWidth") <= width
            contrast, faintest = browser.evaluate(FAINTEST)
            assert contrast >= 4.5, faintest
            assert browser.errors == []


def test_colours_follow_the_scheme_of_the_user(make_report):
    path = make_report("ImageClassification", 1)
    backgrounds = []
    for dark in (False, True):
        with Browser(400, dark) as browser:
            browser.open(path)
            expression = "getComputedStyle(document.querySelector('main')).backgroundColor"
            backgrounds.append(browser.evaluate(expression))
    assert backgrounds == ["rgb(255, 255, 255)", "rgb(13, 17, 23)"]


def test_scripts_in_the_figures_of_a_workdir_do_not_run(make_run, tmp_path):
    workdir = make_run("a")
    hostile = "<script>window.executed = 1</script><img src=data: onerror='executed = 1'>"
    figure = workdir / "figures" / "test_dots.html"
    figure.write_text(figure.read_text().replace("<main>", f"<main>{hostile}"))
    with Browser(1400, dark=False) as browser:
        browser.open(write_report([workdir], tmp_path / "report.html"))
        assert browser.evaluate("document.querySelectorAll('#dots img').length") == 1
        assert browser.evaluate("typeof executed") == "undefined"
        assert browser.evaluate("document.querySelectorAll('th button').length") > 0


def test_the_script_sorts_hides_and_shows(make_report):
    path = make_report("ImageClassification", 1)
    with Browser(1400, dark=False) as browser:
        browser.open(path)
        assert browser.evaluate("document.querySelectorAll('.command button').length") == 4
        # Sorting by the number of examples puts the largest class first.
        counts = """(() => {
          const table = document.querySelector("#classes table");
          [...table.querySelectorAll("th button")].at(-1).click();
          return [...table.tBodies[0].rows].map(row => Number(row.cells[4].textContent));
        })()"""
        found = browser.evaluate(counts)
        assert found == sorted(found, reverse=True) and len(set(found)) > 1
        # A click in the legend hides a curve in all charts.
        hidden = """(() => {
          document.querySelector(".legend li").click();
          const hidden = document.querySelectorAll(".plot .series.hidden");
          return [...hidden].map(one => one.dataset.name);
        })()"""
        assert browser.evaluate(hidden) == ["train"]
        values = """(() => {
          const svg = document.querySelectorAll(".plot svg")[1];
          const frame = svg.getBoundingClientRect();
          const at = {clientX: frame.right - 5, clientY: frame.top + 50, bubbles: true};
          svg.dispatchEvent(new PointerEvent("pointermove", at));
          return svg.parentElement.querySelector(".values").innerText;
        })()"""
        assert browser.evaluate(values) == "step 20\nvalidation 0.1"
        assert browser.errors == []


def test_a_legend_is_operated_with_the_keyboard(make_report):
    path = make_report("ImageClassification", 1)
    with Browser(1400, dark=False) as browser:
        browser.open(path)
        pressed = "document.querySelector('.legend li').ariaPressed"
        assert browser.evaluate(pressed) == "true"
        browser.evaluate("document.querySelector('.legend li').focus()")
        states = []
        for key, text in ((" ", " "), ("Enter", "\r"), ("a", "a")):
            for kind in ("keyDown", "keyUp"):
                press = {"type": kind, "key": key, "windowsVirtualKeyCode": ord(text.upper())}
                browser.call("Input.dispatchKeyEvent", **press, text=text)
            states.append(browser.evaluate(pressed))
        assert states == ["false", "true", "true"]
        assert browser.evaluate("scrollY") == 0  # the space bar would scroll the page
        assert browser.errors == []


def test_commands_have_a_button_only_where_the_browser_can_copy(make_report):
    """Over http there is no clipboard."""
    path = make_report("ImageClassification", 1)
    with Browser(1400, dark=False) as browser:
        without = "Object.defineProperty(navigator, 'clipboard', {value: undefined})"
        browser.call("Page.addScriptToEvaluateOnNewDocument", source=without)
        browser.open(path)
        assert browser.evaluate("document.querySelectorAll('.command').length") == 4
        assert browser.evaluate("document.querySelectorAll('.command button').length") == 0
        assert browser.evaluate("document.querySelectorAll('th button').length") > 0
