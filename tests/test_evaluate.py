"""Scores of a test split that is the validation split say so."""

import dataclasses
import json
import math

import pytest
from absl import flags
from PIL import Image

from research.evaluate import define_flags, evaluate_run, main
from research.exporting.card import Export, model_card
from research.reporting.runs import save_evaluation
from research.tasks.image_classification.data import ImageFolder
from research.training.evaluation import evaluate
from research.training.loop import Trainer


@pytest.fixture(scope="module")
def run(experiment, tmp_path_factory):
    """A run on a folder of images without a test split."""
    folder = tmp_path_factory.mktemp("images")
    for name, grey in (("cat", 60), ("dog", 200)):
        (folder / "train" / name).mkdir(parents=True)
        for i in range(10):
            image = Image.new("L", (8, 8), grey + i)
            image.save(folder / "train" / name / f"{i}.png")
    task = dataclasses.replace(experiment.task, source=ImageFolder(str(folder), (8, 8, 1)))
    short = dataclasses.replace(experiment, task=task, duration="2 steps", batch_size=8)
    run, _ = Trainer(short, folder / "run").train()
    evaluate_run(run, "test")
    return run


def test_the_evaluation_names_the_split_that_was_scored(run):
    evaluate_run(run, "validation")
    for split in ("test", "validation"):
        saved = json.loads((run.workdir / f"evaluation_{split}.json").read_text())
        assert saved["split"] == "validation"


def test_a_score_of_few_examples_has_a_note(run):
    (note,) = json.loads((run.workdir / "evaluation_test.json").read_text())["notes"]
    remedy = "raise config.task.source.validation_fraction, or provide a larger validation split"
    assert note == f"only 2 validation examples: scores of so few are imprecise; {remedy}"


def test_only_the_final_evaluation_logs_signatures(run, monkeypatch, caplog):
    monkeypatch.setattr("research.task.Scorer.signatures", lambda self: ["acc|version:1 = 50"])
    caplog.set_level("INFO")
    evaluate(run.program, run.state, run.program.task.dataset("validation"))
    assert not caplog.messages
    evaluate_run(run, "validation", save=False)
    assert caplog.messages == ["acc|version:1 = 50"]


def test_the_model_card_names_the_split_that_was_scored(run):
    card = model_card(run, Export((), 1, None), "")
    assert "| test (the validation split) | accuracy |" in card


@pytest.fixture
def call(run, capsys):
    """Returns a function that runs the command and returns its line."""
    known = set(flags.FLAGS)
    define_flags()

    def call(*arguments):
        main(flags.FLAGS(["evaluate", f"--workdir={run.workdir}", *arguments])[1:])
        (line,) = capsys.readouterr().out.splitlines()
        return line

    yield call
    flags.FLAGS.unparse_flags()
    for name in set(flags.FLAGS) - known:
        delattr(flags.FLAGS, name)


@pytest.mark.parametrize("arguments", [[], ["--json"]])
def test_the_command_names_the_split_that_was_scored(call, arguments):
    line = call(*arguments)
    if arguments:
        assert json.loads(line)["split"] == "validation"
    else:
        assert line.startswith("test (the validation split): accuracy ")


def test_metrics_that_are_not_finite_are_null(run, call, monkeypatch):
    """In JSON; the model card names them."""
    metrics = {"loss": math.nan, "accuracy": 0.5}
    monkeypatch.setattr("research.evaluate.evaluate_run", lambda *_: metrics)
    line = json.loads(call("--json"), parse_constant=pytest.fail)
    assert line == {"split": "validation", "loss": None, "accuracy": 0.5}
    save_evaluation(run.workdir, "train", {"metrics": metrics, "step": 2}, [])
    assert "| train | loss | nan | 2 |" in model_card(run, Export((), 1, None), "")
