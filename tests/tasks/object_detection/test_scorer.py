import base64
import contextlib
import io
import json

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from research.tasks.object_detection.average_precision import (
    Detections,
    MatchedImage,
    class_curves,
    match,
)
from research.tasks.object_detection.boxes import NO_OBJECTS, Annotation
from research.tasks.object_detection.data import AnnotatedImages, DetectionExamples
from research.tasks.object_detection.scorer import DetectionScorer
from tests.reporting.markup import find, rows, texts

SIZE = (64, 48)  # of the images, in pixels
A, B, C = (2, 2, 12, 12), (20, 20, 40, 30), (44, 4, 60, 44)  # boxes apart from each other
NO_DETECTIONS = Detections(
    np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int32)
)


class Annotated(AnnotatedImages):
    """Plain images with the given annotations."""

    def __init__(self, annotations):
        self.annotations = annotations

    def __len__(self):
        return len(self.annotations)

    def image(self, index):
        return Image.new("RGB", SIZE, (100 + index, 0, 0))

    def annotation(self, index):
        return self.annotations[index]


def objects(*given):
    """The annotation of objects (box, label), or (box, label, True) for crowds."""
    if not given:
        return NO_OBJECTS
    boxes, labels, crowd = zip(*((*one, False)[:3] for one in given), strict=True)
    return Annotation(np.array(boxes, np.float32), np.array(labels, np.int32), np.array(crowd))


def detections(*given):
    """Detections given as (box, score, label)."""
    if not given:
        return NO_DETECTIONS
    boxes, scores, labels = map(np.array, zip(*given, strict=True))
    return Detections(boxes.astype(np.float32), scores.astype(np.float32), labels.astype(np.int32))


def padded(found, capacity, rng):
    """Detections as arrays [images, capacity, ...], with random padding."""
    boxes = rng.uniform(0, 50, (len(found), capacity, 4)).astype(np.float32)
    labels = rng.integers(0, 2, (len(found), capacity)).astype(np.int32)
    scores = np.zeros((len(found), capacity), np.float32)
    for row, one in enumerate(found):
        count = len(one.scores)
        boxes[row, :count], scores[row, :count], labels[row, :count] = one
    return {"boxes": boxes, "scores": scores, "labels": labels}


def scored(truth, found, class_names=("cat", "dog"), indices=None, batch=2):
    """A scorer updated with batches in reverse order, and the dataset."""
    rng = np.random.default_rng(0)
    scorer = DetectionScorer(tuple(class_names), display_threshold=0.3)
    order = np.arange(len(truth))[::-1] if indices is None else np.array(indices)
    for number, start in enumerate(range(0, len(order), batch)):
        index = order[start : start + batch]
        of_batch = [found[i] for i in index]
        capacity = max(len(one.scores) for one in of_batch) + number % 3
        scorer.update({"index": index}, padded(of_batch, capacity, rng))
    return scorer, DetectionExamples(Annotated(truth), (32, 32), 1)


def result(*arguments, **options):
    scorer, dataset = scored(*arguments, **options)
    return scorer.result(dataset)


def of_one_image(truth, found):
    """The scores of a single image."""
    return result([objects(*truth)], [detections(*found)])


def figures(*arguments, **options):
    """Figures by title."""
    scorer, dataset = scored(*arguments, **options)
    return {figure.title: figure for figure in scorer.figures(dataset)}


def outlines(figure, kind):
    """The boxes of a kind."""
    return [one for one in find(figure.content, "rect") if one.get("class") == kind]


def headings(figure):
    return [text for text in texts(figure.content, "figcaption") if text.startswith("image ")]


def random_boxes(rng, count, size=100):
    corner = rng.uniform(0, 0.8 * size, (count, 2))
    sides = rng.uniform(0.05, 0.5, (count, 2)) * size
    return np.concatenate([corner, np.minimum(corner + sides, size)], axis=1).astype(np.float32)


def random_truth(rng, classes):
    count = int(rng.integers(0, 7))
    labels = rng.integers(0, classes, count).astype(np.int32)
    return Annotation(random_boxes(rng, count), labels, rng.random(count) < 0.2)


def random_found(rng, truth, classes):
    """Random detections, most of them near an object, some with equal scores."""
    count = int(rng.integers(0, 11))
    boxes, labels = random_boxes(rng, count), rng.integers(0, classes, count)
    for i in range(count if len(truth.labels) else 0):
        if rng.random() < 0.8:
            near = rng.integers(len(truth.labels))
            shift = rng.normal(size=4) * rng.choice([0, 1, 4])
            boxes[i] = truth.boxes[near] + shift.astype(np.float32)
            labels[i] = truth.labels[near]
    corners = boxes.reshape(-1, 2, 2)
    boxes = np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)
    scores = np.maximum(rng.random(count), 0.01).round(int(rng.choice([1, 6]))).clip(0.01)
    return Detections(boxes, scores.astype(np.float32), labels.astype(np.int32))


def random_set(seed):
    """Random class names, annotations and detections of some images."""
    rng = np.random.default_rng(seed)
    classes = int(rng.integers(2, 5))
    truth = [random_truth(rng, classes) for _ in range(rng.integers(3, 7))]
    return "wxyz"[:classes], truth, [random_found(rng, one, classes) for one in truth]


def coco_json(names, truth):
    """A COCO annotation file, with image ids 10, 20, ... and category ids 5, 6, ..."""
    annotations = []
    for image, one in enumerate(truth):
        for (x0, y0, x1, y1), label, crowd in zip(*(part.tolist() for part in one), strict=True):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": 10 * image + 10,
                    "category_id": label + 5,
                    "bbox": [x0, y0, x1 - x0, y1 - y0],
                    "area": (x1 - x0) * (y1 - y0),
                    "iscrowd": int(crowd),
                }
            )
    images = [{"id": 10 * image + 10, "width": 100, "height": 100} for image in range(len(truth))]
    categories = [{"id": label + 5, "name": name} for label, name in enumerate(names)]
    return {"images": images, "annotations": annotations, "categories": categories}


def coco_results(found):
    """A COCO result file."""
    return [
        {
            "image_id": 10 * image + 10,
            "category_id": label + 5,
            "bbox": [x0, y0, x1 - x0, y1 - y0],
            "score": score,
        }
        for image, one in enumerate(found)
        for (x0, y0, x1, y1), score, label in zip(*(part.tolist() for part in one), strict=True)
    ]


def evaluated(names, truth, found, folder):
    """Evaluates files with pycocotools as documented there."""
    path = folder / "annotations.json"
    path.write_text(json.dumps(coco_json(names, truth)))
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(path))
        evaluation = COCOeval(coco, coco.loadRes(coco_results(found)), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def expected(names, truth, found, folder):
    """The expected `result`, by pycocotools, which uses -1 for classes without objects."""
    if not sum(len(one.scores) for one in found):  # not supported by pycocotools
        present = sorted({label for one in truth for label in one.labels[~one.crowd]})
        return dict.fromkeys(["ap", "ap50", "ap75", *(f"ap/{names[i]}" for i in present)], 0.0)
    evaluation = evaluated(names, truth, found, folder)
    of_all = dict(zip(("ap", "ap50", "ap75"), evaluation.stats[:3].tolist(), strict=True))
    of_classes = evaluation.eval["precision"][:, :, :, 0, 2].mean(axis=(0, 1))
    return of_all | {
        f"ap/{name}": ap for name, ap in zip(names, of_classes.tolist(), strict=True) if ap >= 0
    }


def assert_agrees_with_pycocotools(seeds, folder):
    scores = []
    for seed in seeds:
        names, truth, found = random_set(seed)
        if all(one.crowd.all() for one in truth):
            assert result(truth, found, names) == {}
            continue
        ours = result(truth, found, names)
        assert ours == pytest.approx(expected(names, truth, found, folder), abs=1e-6), seed
        scores.append(ours["ap"])
    assert np.std(scores) > 0.1  # they are not all the same
    assert len(scores) > 0.95 * len(seeds)


def test_ap_agrees_with_pycocotools(tmp_path):
    assert_agrees_with_pycocotools(range(100), tmp_path)


@pytest.mark.slow
def test_ap_agrees_with_pycocotools_on_a_thousand_sets(tmp_path):
    assert_agrees_with_pycocotools(range(1000), tmp_path)


def test_matches_agree_with_pycocotools(tmp_path):
    for seed in range(30):
        names, truth, found = random_set(seed)
        if not sum(len(one.scores) for one in found):
            continue
        numbers = np.cumsum([0] + [len(one.labels) for one in truth])
        ids = np.cumsum([1] + [len(one.scores) for one in found])
        expected = np.full(ids[-1], -1)
        for one in filter(None, evaluated(names, truth, found, tmp_path).evalImgs):
            if one["aRng"] == [0, 1e10]:
                expected[one["dtIds"]] = one["dtMatches"][0] - 1
        for image in range(len(truth)):
            ours = match(truth[image], found[image])
            theirs = expected[ids[image] : ids[image + 1]]
            theirs = np.where(theirs < 0, -1, theirs - numbers[image])
            np.testing.assert_array_equal(ours, theirs)


def test_a_perfect_detector_has_an_ap_of_one():
    truth = [objects((A, 0), (B, 1)), objects((C, 1))]
    found = [detections((A, 0.9, 0), (B, 0.4, 1)), detections((C, 0.6, 1))]
    perfect = dict.fromkeys(("ap", "ap50", "ap75", "ap/cat", "ap/dog"), pytest.approx(1))
    assert result(truth, found) == perfect


def test_one_of_two_objects_gives_recall_one_half():
    """Precision is 1 at the recalls 0, 0.01, ..., 0.5."""
    scores = of_one_image([(A, 0), (B, 0)], [(A, 0.9, 0)])
    assert scores == dict.fromkeys(("ap", "ap50", "ap75", "ap/cat"), pytest.approx(51 / 101))


def test_duplicate_detections_are_false_positives():
    scores = of_one_image([(A, 0), (B, 0)], [(A, 0.9, 0), (A, 0.8, 0), (B, 0.7, 0)])
    assert scores["ap"] == pytest.approx((51 + 50 * 2 / 3) / 101)


def test_ap_is_averaged_over_iou_thresholds():
    """An IoU of 0.62 exceeds the thresholds 0.5, 0.55 and 0.6."""
    scores = of_one_image([((0, 0, 10, 10), 0)], [((0, 0, 10, 6.2), 0.9, 0)])
    assert scores["ap"] == pytest.approx(0.3)
    assert scores["ap50"] == pytest.approx(1) and scores["ap75"] == 0


def test_a_box_with_the_wrong_class_is_a_false_positive():
    scores = of_one_image([(A, 0), (B, 1)], [(A, 0.9, 1), (B, 0.8, 1)])
    assert scores["ap/cat"] == 0
    assert scores["ap/dog"] == pytest.approx(1 / 2)
    assert scores["ap"] == pytest.approx(1 / 4)


def test_crowds_do_not_affect_ap():
    truth, found = [(A, 0), (B, 0)], [(A, 0.8, 0)]
    without = of_one_image(truth, found)
    in_crowd = [((46, 6, 52, 14), 0.95, 0), ((50, 20, 58, 30), 0.9, 0)]
    assert of_one_image([*truth, (C, 0, True)], found) == without
    assert of_one_image([*truth, (C, 0, True)], [*found, *in_crowd]) == without
    assert of_one_image(truth, [*found, *in_crowd])["ap"] < without["ap"]


def test_the_top_hundred_detections_per_class_and_image_are_evaluated():
    best = [(B, 0.9, 0)] * 99
    assert of_one_image([(A, 0)], [*best, (A, 0.5, 0)])["ap"] == pytest.approx(1 / 100)
    assert of_one_image([(A, 0)], [*best, (B, 0.9, 0), (A, 0.5, 0)])["ap"] == 0


def test_boxes_are_not_rounded():
    """The IoU slightly exceeds 0.5; float32 differences of the corners would round it below."""
    truth, found = (0.91275555, 0, 12, 10), (6.4563775, 0, 12, 10)
    assert of_one_image([(truth, 0)], [(found, 0.9, 0)])["ap50"] == pytest.approx(1)


def test_a_class_without_objects_has_no_ap():
    truth = [objects((A, 0), (B, 1, True)), objects()]
    found = [detections((A, 0.9, 0)), detections((C, 0.99, 1))]
    scores = result(truth, found)
    assert scores == dict.fromkeys(("ap", "ap50", "ap75", "ap/cat"), pytest.approx(1))


def test_a_false_positive_in_an_empty_image_lowers_ap():
    truth, found = [objects((A, 0)), objects()], detections((A, 0.5, 0))
    assert result(truth, [found, NO_DETECTIONS])["ap"] == pytest.approx(1)
    assert result(truth, [found, detections((B, 0.9, 0))])["ap"] == pytest.approx(1 / 2)


def test_images_without_predictions_are_not_evaluated():
    truth = [objects((A, 0)), objects((B, 0)), objects((C, 0))]
    found = [detections((A, 0.9, 0)), NO_DETECTIONS, detections((C, 0.9, 0))]
    assert result(truth, found)["ap"] < 0.7
    assert result(truth, found, indices=[2, 0])["ap"] == pytest.approx(1)


def test_padding_is_not_a_detection():
    """Even if it coincides with an object."""
    scorer, dataset = scored([objects((A, 0))], [NO_DETECTIONS])
    scorer.update(
        {"index": np.arange(1)}, padded([detections((A, 0, 0))], 1, np.random.default_rng(0))
    )
    assert scorer.result(dataset)["ap"] == 0


def test_a_later_batch_changes_the_result():
    truth = [objects((A, 0)), objects((B, 0))]
    scorer, dataset = scored(truth, [NO_DETECTIONS] * 2)
    assert scorer.result(dataset)["ap"] == 0
    found = [detections((A, 0.9, 0)), detections((B, 0.9, 0))]
    scorer.update({"index": np.arange(2)}, padded(found, 1, np.random.default_rng(0)))
    assert scorer.result(dataset)["ap"] == pytest.approx(1)


@pytest.mark.parametrize(
    "found",
    [
        NO_DETECTIONS,
        Detections(*(np.full_like(part, np.nan) for part in detections((A, 0.9, 0))[:2]), [0]),
        detections(((np.nan, 2, 12, 12), 0.9, 0)),
        detections(((2, 2, np.inf, 12), 0.9, 0)),
    ],
    ids=["nothing", "all nan", "a nan", "infinite"],
)
def test_no_detections_or_diverged_ones_have_ap_zero(found):
    truth = [objects((A, 0)), objects(), objects((B, 1))]
    scores = result(truth, [found] * 3)
    assert scores == dict.fromkeys(("ap", "ap50", "ap75", "ap/cat", "ap/dog"), 0.0)
    shown = figures(truth, [found] * 3)
    assert len(outlines(shown["First images"], "fn")) == 2
    assert not outlines(shown["First images"], "fp")
    legend = texts(shown["Precision, recall and F1"].content, "li")
    assert legend[-1] == "mean of 2 classes: AP50 0.00"


def test_without_objects_ap_is_undefined(caplog):
    """A run with empty validation images continues, with a warning."""
    truth, found = [objects((A, 0, True)), objects()], [detections((A, 0.9, 0))] * 2
    assert result(truth, found) == {}
    assert "undefined AP: no object in the 2 evaluated images" in caplog.text
    assert list(figures(truth, found)) == ["Hardest images", "First images"]


def test_nothing_is_printed(capfd):
    of_one_image([(A, 0)], [(A, 0.9, 0)])
    assert capfd.readouterr().out == ""


def test_true_and_false_positives_and_false_negatives_have_own_colors():
    truth = objects((A, 0), (B, 1), (C, 0, True), ((44, 2, 60, 4), 1, True))
    found = detections((A, 0.75, 0), (B, 0.5, 0), ((46, 6, 52, 14), 0.9, 0), (B, 0.2, 1))
    shown = figures([truth], [found])
    for title in ("First images", "Hardest images"):
        assert headings(shown[title]) == ["image 0: 1 TP, 1 FP, 1 FN"]
        labels = set(texts(shown[title].content, "text"))
        assert labels == {"cat 0.75", "cat 0.50", "dog", "cat", "cat 0.90"}  # not "dog 0.20"
        counts = [len(outlines(shown[title], kind)) for kind in ("tp", "fn", "fp", "crowd")]
        assert counts == [1, 1, 1, 3]
    assert len(outlines(shown["First images"], "gt")) == 1
    assert not outlines(shown["Hardest images"], "gt")


def test_images_with_the_most_errors_come_first():
    """Ordered by false negatives plus the scores of false positives."""
    truth = [objects((A, 0), (B, 0)) for _ in range(15)]
    right = [(A, 0.9, 0), (B, 0.9, 0)]
    found = [detections(*right) for _ in truth]
    found[14] = NO_DETECTIONS
    found[3] = detections((A, 0.9, 0), (C, 0.8, 1))
    found[7] = detections((A, 0.9, 0), (C, 0.4, 1))
    found[5] = detections(*right, (C, 0.35, 1))
    shown = figures(truth, found)
    first, hardest = shown["First images"], shown["Hardest images"]
    assert first.caption.startswith("12 of 15.")
    assert [int(text.split()[1][:-1]) for text in headings(first)] == list(range(12))
    assert hardest.caption.startswith("12 of 15, by false negatives and false positives.")
    assert len(headings(hardest)) == 12
    assert headings(hardest)[:5] == [
        "image 14: 0 TP, 0 FP, 2 FN",
        "image 3: 1 TP, 1 FP, 1 FN",
        "image 7: 1 TP, 1 FP, 1 FN",
        "image 5: 2 TP, 1 FP, 0 FN",
        "image 0: 2 TP, 0 FP, 0 FN",
    ]


def test_figures_show_the_evaluated_images():
    truth = [objects((A, 0))] * 4
    first = figures(truth, [NO_DETECTIONS] * 4, indices=[3, 1])["First images"]
    assert first.caption.startswith("2 of 2.")
    assert [text[:8] for text in headings(first)] == ["image 1:", "image 3:"]
    sources = [one.get("href").partition(",")[2] for one in find(first.content, "image")]
    images = [Image.open(io.BytesIO(base64.b64decode(source))) for source in sources]
    assert [image.getpixel((0, 0))[0] - 100 for image in images] == [1, 3]


def test_confusions_are_counted_whatever_the_class():
    """A cat found as a dog, a dog that is missed, and a detection of nothing."""
    truth = objects((A, 0), (B, 1), (C, 0, True))
    found = detections((A, 0.9, 1), (C, 0.8, 0), ((70, 70, 80, 80), 0.7, 0), (B, 0.1, 1))
    matrix = figures([truth], [found])["Confusion matrix"]
    assert rows(matrix.content)[1:] == [
        ["cat", "", "1", ""],
        ["dog", "", "", "1"],
        ["no object", "1", "", ""],
    ]


def test_curves_over_the_score():
    """Of two objects, one is found with score 0.8; a detection of score 0.5 is wrong."""
    truth, found = objects((A, 0), (B, 0)), detections((A, 0.8, 0), (C, 0.5, 0))
    image = MatchedImage(0, truth, found, match(truth, found))
    (curve,) = class_curves([image], ("cat", "dog")).values()
    assert curve.at(0.3) == pytest.approx((1 / 2, 1 / 2, 2 * 1 / (2 + 2)))
    assert curve.at(0.6) == pytest.approx((1, 1 / 2, 2 * 1 / (1 + 2)))
    assert curve.at(0.9) == (0, 0, 0)
    assert len(curve.f1) == 101


def test_detections_of_crowds_count_neither_way():
    truth, found = objects((A, 0), (C, 0, True)), detections((A, 0.8, 0), (C, 0.9, 0))
    image = MatchedImage(0, truth, found, match(truth, found))
    assert class_curves([image], ("cat",))["cat"].at(0.5) == (1, 1, 1)
