import pytest

from research.tasks.image_classification.data import TFDS, Digits, ImageFolder
from research.tasks.image_classification.task import ImageClassification
from research.tasks.object_detection.data import COCO, VOC
from research.tasks.object_detection.task import ObjectDetection
from research.tasks.sequence_to_sequence.data import ParallelText
from research.tasks.sequence_to_sequence.task import SequenceToSequence
from research.tasks.speech_recognition.data import Manifest
from research.tasks.speech_recognition.task import SpeechRecognition

CIFAR = {"name": "cifar10", "image_shape": (32, 32, 3), "num_classes": 10}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working directory with folders of images and of Pascal VOC."""
    for name in ("plain/train", "tested/test", "voc/ImageSets/Main", "bare"):
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("task", "opened"),
    [
        (ImageClassification(source=Digits()), "test"),
        (ImageClassification(source=ImageFolder("plain")), "validation"),
        (ImageClassification(source=ImageFolder("tested")), "test"),
        (ImageClassification(source=TFDS(**CIFAR)), "test"),
        (ImageClassification(source=TFDS(**CIFAR, test="")), "validation"),
        (ObjectDetection(source=COCO("coco")), "validation"),
        (ObjectDetection(source=COCO("coco", test="test.json")), "test"),
        (ObjectDetection(source=VOC("voc")), "validation"),
        (ObjectDetection(source=VOC("voc", test="test")), "test"),
        (ObjectDetection(source=VOC("bare")), "test"),  # a part is held out
        (SpeechRecognition(source=Manifest("train.jsonl")), "validation"),
        (SpeechRecognition(source=Manifest("train.jsonl", "test.jsonl")), "test"),
        (SequenceToSequence(source=ParallelText(("train.tsv",))), "validation"),
        (SequenceToSequence(source=ParallelText(("train.tsv",), test=("test.tsv",))), "test"),
    ],
    ids=lambda value: getattr(value, "source", value).__class__.__name__,
)
def test_the_validation_split_replaces_a_missing_test_split(task, opened):
    assert task.opened_split("test") == opened
    assert [task.opened_split(split) for split in ("train", "validation")] == [
        "train",
        "validation",
    ]
