import numpy as np
import pytest
from PIL import Image

from research.common.errors import ConfigError, UserError
from research.tasks.image_classification.data import ImageFolder
from research.tasks.image_classification.task import ImageClassification
from research.training.evaluation import evaluate
from research.training.experiment import Experiment
from research.training.program import Program


@pytest.fixture
def folder(tmp_path):
    """A folder of ten red and fourteen blue images of several sizes."""
    for name, colour, count in (("red", (200, 0, 0), 10), ("blue", (0, 0, 200), 14)):
        (tmp_path / "train" / name).mkdir(parents=True)
        for i in range(count):
            image = Image.new("RGB", (20 + i, 30), colour)
            image.save(tmp_path / "train" / name / f"{i:02}.{'jpg' if i % 2 else 'png'}")
    return tmp_path


def test_classes_are_the_subfolders_and_validation_is_held_out(folder):
    source = ImageFolder(
        path=str(folder), image_shape=(16, 16, 3), validation_fraction=0.25
    ).resolve()
    assert source.class_names == ("blue", "red")
    train, validation = source.open("train"), source.open("validation")
    assert (len(train), len(validation)) == (18, 6)
    batch = train.batch(np.arange(18), (0,), None)
    assert batch["image"].shape == (18, 16, 16, 3)
    is_red = batch["image"][:, 8, 8, 0] > 100
    assert (is_red == (batch["label"] == 1)).all()
    assert len(source.open("test")) == 6


def test_validation_and_test_folders_are_used(folder):
    for split, count in (("validation", 2), ("test", 3)):
        for name in ("red", "blue"):
            (folder / split / name).mkdir(parents=True)
            for i in range(count):
                Image.new("RGB", (8, 8)).save(folder / split / name / f"{i}.png")
    source = ImageFolder(path=str(folder), image_shape=(8, 8, 3)).resolve()
    sizes = [len(source.open(split)) for split in ("train", "validation", "test")]
    assert sizes == [24, 4, 6]


def test_a_corrupt_image_raises_or_is_skipped(folder):
    broken = folder / "train" / "blue" / "03.jpg"
    broken.write_bytes(b"no jpeg")
    stop = ImageFolder(path=str(folder), image_shape=(8, 8, 3)).resolve()
    train = stop.open("train").parent
    with pytest.raises(UserError, match=r"blue/03\.jpg: .*on_corrupt to 'skip'"):
        train.batch(np.arange(24), (0,), None)
    skip = ImageFolder(path=str(folder), image_shape=(8, 8, 3), on_corrupt="skip").resolve()
    train = skip.open("train").parent
    batch = train.batch(np.arange(24), (0,), None)
    assert batch["mask"].tolist() == [1, 1, 1, 0] + [1] * 20
    assert "blue/03.jpg" in train.unusable[3]


@pytest.mark.slow
def test_skipped_images_are_counted_in_the_score(folder):
    for name in ("red", "blue"):
        (folder / "test" / name).mkdir(parents=True)
        for i in range(3):
            Image.new("RGB", (8, 8)).save(folder / "test" / name / f"{i}.png")
    (folder / "test" / "red" / "1.png").write_bytes(b"")
    source = ImageFolder(path=str(folder), image_shape=(8, 8, 3), on_corrupt="skip")
    task = ImageClassification(source=source).resolve()
    program = Program(Experiment(task=task, batch_size=8))
    results, _ = evaluate(program, program.initialize().inference, task.dataset("test"))
    assert (results["examples"], results["skipped"]) == (5, 1)


def test_a_class_without_images_is_an_error(folder):
    (folder / "train" / "green").mkdir()
    task = ImageClassification(source=ImageFolder(path=str(folder))).resolve()
    with pytest.raises(ConfigError, match=r"config.task.source.path: no images .*train/green"):
        task.dataset("train")


def test_a_missing_folder_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match=r"missing folder .*nowhere/train"):
        ImageFolder(path=str(tmp_path / "nowhere")).resolve()


def test_a_single_class_is_an_error(tmp_path):
    (tmp_path / "train" / "only").mkdir(parents=True)
    with pytest.raises(ConfigError, match="expected two or more class folders, found 1"):
        ImageFolder(path=str(tmp_path)).resolve()


def test_an_image_in_two_splits_is_reported(folder, caplog):
    for name in ("red", "blue"):
        (folder / "test" / name).mkdir(parents=True)
        original = folder / "train" / name / "00.png"
        (folder / "test" / name / "copy.png").write_bytes(original.read_bytes())
    ImageFolder(path=str(folder)).resolve().open("train")
    assert "2 test examples are in the training split too" in caplog.text
