"""Own data and models, from files to a trained run and a prediction by one command each."""

import ast
import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

from research.training.experiment import load_experiment
from tests.test_commands import quick_call

ROOT = Path(__file__).parents[1]
RATE = 8000
FEW_STEPS = ("--config.duration=2 steps", "--config.batch_size=8")
FROM_SCRATCH = ("--config.initialize=None",)
# Networks so small that they compile in seconds.
MLP = (
    "--config.task.model.type=MLP",
    "--config.task.model.widths=8",
    "--config.task.source.image_shape=8,8,3",
    "--config.optimizer.learning_rate_multipliers=()",
)
DETECTOR = (
    "--config.task.model.backbone.type=ResNet",
    "--config.task.model.backbone.depth=18",
    "--config.task.model.backbone.width=8",
    "--config.task.model.strides=4,",
    "--config.task.model.channels=8",
    "--config.task.model.num_head_convs=0",
    "--config.task.image_size=32,32",
    "--config.optimizer.freeze=()",
)
LSTM = (
    "--config.task.model.channels=8,",
    "--config.task.model.strides=2,",
    "--config.task.model.num_layers=1",
    "--config.task.model.bidirectional=False",
    "--config.task.model.features=8",
    "--config.task.augmentation.speed_perturbation=0",
    "--config.task.num_buckets=1",
)
TRANSFORMER = (
    "--config.task.model.features=8",
    "--config.task.model.num_encoder_layers=1",
    "--config.task.model.num_decoder_layers=1",
    "--config.task.decoding.beam_size=1",
    "--config.task.num_buckets=1",
)


@pytest.fixture(autouse=True)
def cache(compilation_cache, monkeypatch):
    """Sets a compilation cache for the commands, instead of the user's."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(compilation_cache))


def write_images(folder):
    for name, grey in (("cat", 60), ("dog", 200)):
        (folder / "train" / name).mkdir(parents=True)
        for i in range(10):
            Image.new("RGB", (12, 10 + i), (grey,) * 3).save(folder / "train" / name / f"{i}.png")
    flags = (f"--config.task.source.path={folder}", *FROM_SCRATCH, *MLP)
    return flags, folder / "train" / "cat" / "0.png", {"class", "probability"}


def square(path, number):
    """Draws a white square and returns its left and top edge."""
    x, y = number, 2 * number
    image = Image.new("RGB", (40, 40))
    image.paste("white", (x, y, x + 16, y + 16))
    image.save(path)
    return x, y


def write_coco(folder):
    (folder / "images").mkdir()
    images, annotations = [], []
    for i in range(10):
        x, y = square(folder / "images" / f"{i}.png", i)
        images.append({"id": i, "file_name": f"{i}.png", "width": 40, "height": 40})
        annotations.append({"id": i, "image_id": i, "category_id": 1, "bbox": [x, y, 16, 16]})
    content = {"images": images, "annotations": annotations}
    content["categories"] = [{"id": 1, "name": "square"}]
    (folder / "annotations.json").write_text(json.dumps(content))
    flags = (f"--config.task.source.path={folder}", *FROM_SCRATCH, *DETECTOR)
    return flags, folder / "images" / "0.png", {"objects"}


def write_voc(folder):
    (folder / "JPEGImages").mkdir()
    (folder / "Annotations").mkdir()
    for i in range(10):
        x, y = square(folder / "JPEGImages" / f"{i}.png", i)
        box = f"<xmin>{x + 1}</xmin><ymin>{y + 1}</ymin><xmax>{x + 16}</xmax><ymax>{y + 16}</ymax>"
        xml = f"<object><name>square</name><bndbox>{box}</bndbox></object>"
        (folder / "Annotations" / f"{i}.xml").write_text(f"<annotation>{xml}</annotation>")
    flags = ("--config.task.source.type=VOC", f"--config.task.source.path={folder}")
    return (*flags, *FROM_SCRATCH, *DETECTOR), folder / "JPEGImages" / "0.png", {"objects"}


def write_speech(folder):
    lines = []
    for i in range(10):
        tone = 0.3 * np.sin(np.arange(RATE // 2) * (0.2 + i % 2))
        soundfile.write(folder / f"{i}.wav", tone, RATE)
        lines.append(json.dumps({"audio_filepath": f"{i}.wav", "text": ("lo", "hi")[i % 2]}))
    (folder / "train.jsonl").write_text("\n".join(lines))
    flags = (f"--config.task.source.train={folder}/train.jsonl", *LSTM)
    return flags, folder / "0.wav", {"text", "words"}


def texts():
    words = ("a", "big", "red", "dog", "sleeps", "runs")
    return [" ".join(words[(i + k) % 6] for k in range(2 + i % 3)) for i in range(20)]


def write_tsv(folder):
    lines = [f"{text}\t{text[::-1]}\n" for text in texts()]
    (folder / "train.tsv").write_text("".join(lines))
    flags = (f"--config.task.source.train={folder}/train.tsv", *TRANSFORMER)
    return flags, "a big dog", {"output", "n_best"}


def write_two_files(folder):
    (folder / "train.en").write_text("".join(f"{text}\n" for text in texts()))
    (folder / "train.de").write_text("".join(f"{text[::-1]}\n" for text in texts()))
    flags = (f"--config.task.source.train={folder}/train.en,{folder}/train.de", *TRANSFORMER)
    return flags, "a big dog", {"output", "n_best"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("experiment", "write"),
    [
        ("image_classification/my_images", write_images),
        ("object_detection/my_boxes", write_coco),
        ("object_detection/my_boxes", write_voc),
        ("speech_recognition/my_speech", write_speech),
        ("sequence_to_sequence/my_texts", write_tsv),
        ("sequence_to_sequence/my_texts", write_two_files),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_own_data_are_trained_on_by_flags_alone(experiment, write, tmp_path):
    flags, item, keys = write(tmp_path)
    workdir = f"--workdir={tmp_path / 'run'}"
    trained = quick_call(
        "train", f"--config=experiments/{experiment}.py", workdir, *flags, *FEW_STEPS
    )
    assert trained.returncode == 0, trained.stderr
    assert (tmp_path / "run" / "report.html").exists()
    predicted = quick_call("predict", workdir, "--json", item)
    assert predicted.returncode == 0, predicted.stderr
    (line,) = predicted.stdout.splitlines()
    assert keys <= set(json.loads(line))


@pytest.mark.parametrize("path", sorted(ROOT.glob("experiments/*/my_*.py")), ids=lambda p: p.stem)
def test_every_documented_flag_is_accepted(path):
    docstring = ast.get_docstring(ast.parse(path.read_text()))
    commands = re.findall(r'ARGS="([^"]*)"', docstring)
    commands += re.findall(r"`(--config[^`]*)`", docstring)
    assert len(commands) >= 3
    for command in commands:
        flags = shlex.split(command)
        assert all(flag.startswith("--config.") for flag in flags)
        load_experiment(path, [flag.removeprefix("--config.") for flag in flags])


OWN_MODEL = '''
from typing import Any

from flax import linen as nn

from research.common.config import not_configured, to_config_dict
from research.tasks.image_classification.task import ImageClassification
from research.training.experiment import Experiment


class Linear(nn.Module):
    """Logistic regression."""

    num_classes: int = not_configured(0)
    dtype: Any = not_configured(None)

    @nn.compact
    def __call__(self, images, train):
        return nn.Dense(self.num_classes)(images.reshape(images.shape[0], -1))


def get_config():
    return to_config_dict(Experiment(task=ImageClassification(model=Linear()), duration="2 steps"))
'''


@pytest.mark.slow
def test_a_model_of_ones_own_lives_in_an_experiment_file(tmp_path):
    file, workdir = tmp_path / "mine.py", f"--workdir={tmp_path / 'run'}"
    file.write_text(OWN_MODEL)
    trained = quick_call("train", f"--config={file}", workdir)
    assert trained.returncode == 0, trained.stderr
    evaluated = quick_call("evaluate", workdir, "--json")
    assert json.loads(evaluated.stdout)["accuracy"] > 0
    file.unlink()
    refused = quick_call("evaluate", workdir)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert f"config.task.model.type: missing file {file}, which" in refused.stderr
    assert len(refused.stderr.splitlines()) == 1
