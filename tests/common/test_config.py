import ast
import json
from pathlib import Path

import pytest

from research.common.config import differences, from_config_dict, to_config_dict
from research.common.errors import ConfigError
from research.layers.resnet import ResNet
from research.training.experiment import Experiment, load_experiment

ROOT = Path(__file__).parents[2]
EXPERIMENTS = sorted(ROOT.glob("experiments/*/*.py"))


def changed(experiment, key, value):
    config = to_config_dict(experiment).to_dict()
    *parents, last = key.split(".")
    owner = config
    for parent in parents:
        owner = owner[parent]
    owner[last] = value
    return config


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_an_experiment_survives_json(path):
    experiment = load_experiment(path)
    config = to_config_dict(experiment)
    again = from_config_dict(Experiment, json.loads(json.dumps(config.to_dict())))
    assert again == experiment


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_an_experiment_documents_its_measurement(path):
    text = ast.get_docstring(ast.parse(path.read_text())) or ""
    for word in ("Command:", "Hardware:", "Time:", "Score:"):
        assert word in text, f"the docstring of {path.name} lacks {word}"


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("batch_sise", 3, "config.batch_sise: unknown key; did you mean 'batch_size'?"),
        ("task.source.test_fractoin", 0.3, "did you mean 'test_fraction'?"),
        (
            "task.model.type",
            "MLPP",
            "config.task.model.type: unknown class 'MLPP'; did you mean 'MLP'?",
        ),
        ("task.type", "ImageClasification", "did you mean 'ImageClassification'?"),
        ("task.model.depth", 18, "config.task.model.depth: unknown key"),
        ("batch_size", "64", "config.batch_size: invalid value '64': expected int"),
        ("batch_size", True, "config.batch_size: invalid value True: expected int"),
        ("optimizer.learning_rate", None, "learning_rate: invalid value None: expected float"),
        ("optimizer.learning_rate", True, "learning_rate: invalid value True: expected float"),
        (
            "task.model.widths",
            [32, "a"],
            "config.task.model.widths: invalid value [32, 'a']: expected",
        ),
        ("optimizer", 3, "config.optimizer: invalid value 3: expected Optimizer"),
        (
            "optimizer.schedule",
            "cosin",
            "schedule: unknown schedule 'cosin'; did you mean 'cosine'?",
        ),
        ("optimizer.name", "adamv", "unknown optimizer 'adamv'; did you mean"),
        (
            "optimizer.options",
            {"b3": 0.9},
            "optimizer.options.b3: unknown argument of optax",
        ),
        ("optimizer.weight_decay_mask", [["(", True]], "mask: invalid pattern '('"),
        ("optimizer.clip_norm", -1.0, "config.optimizer.clip_norm: invalid value -1.0: expected"),
        ("batch_length", -1, "config.batch_length: invalid value -1: expected at least 0"),
        ("gradient_accumulation_steps", 7, "config.batch_size: 64 is not divisible by gradient_"),
        ("ema_decay", 1.0, "config.ema_decay: invalid value 1.0: expected a number in [0, 1)"),
        ("mesh.rules", [[".*", "fdsp"]], "config.mesh.rules: unknown rule 'fdsp'"),
        ("task.std", [0.1, 0.2], "config.task.std: invalid value"),
    ],
)
def test_an_invalid_config_is_refused_by_its_key(experiment, key, value, message):
    with pytest.raises(ConfigError) as error:
        from_config_dict(Experiment, changed(experiment, key, value))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_an_integer_is_converted_to_float(experiment):
    decoded = from_config_dict(Experiment, changed(experiment, "optimizer.learning_rate", 1))
    assert decoded.optimizer.learning_rate == 1.0
    assert isinstance(decoded.optimizer.learning_rate, float)


def test_differences_name_the_leaf(experiment, with_model):
    old, new = to_config_dict(experiment), to_config_dict(with_model(ResNet(depth=50)))
    lines = differences(old.to_dict(), new.to_dict())
    assert "task.model.type: MLP -> ResNet" in lines
    assert "task.model.depth: (absent) -> 50" in lines
    assert "task.model.widths: [32] -> (absent)" in lines
    assert not any(line.startswith("optimizer") for line in lines)
