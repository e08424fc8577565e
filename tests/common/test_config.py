import ast
import dataclasses
import json
from pathlib import Path

import pytest

import research
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
def test_an_experiment_survives_the_way_through_json(path):
    experiment = load_experiment(path)
    config = to_config_dict(experiment)
    again = from_config_dict(Experiment, json.loads(json.dumps(config.to_dict())))
    assert again == experiment


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_an_experiment_says_how_it_was_measured(path):
    text = ast.get_docstring(ast.parse(path.read_text())) or ""
    for word in ("Command:", "Hardware:", "Time:", "Score:"):
        assert word in text, f"{path.name} does not say its {word}"


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
        (
            "task.model.widths",
            [32, "a"],
            "config.task.model.widths: invalid value [32, 'a']: expected",
        ),
        ("optimizer", 3, "config.optimizer: invalid value 3: expected Optimizer"),
        (
            "optimizer.schedule",
            "cosin",
            "config.optimizer.schedule: invalid value 'cosin': expected",
        ),
        ("optimizer.name", "adamv", "optax has no 'adamv'; did you mean"),
        ("optimizer.options", {"b3": 0.9}, "config.optimizer.options.b3: optax's adamw takes no"),
        ("optimizer.decay_mask", "(", "config.optimizer.decay_mask: is no regular expression"),
        ("optimizer.clip", -1.0, "config.optimizer.clip: must not be negative"),
        ("batch_length", -1, "config.batch_length: must not be negative, is -1"),
        ("accumulate", 7, "config.batch_size: 64 is not divisible by accumulate=7"),
        ("ema_decay", 1.0, "config.ema_decay: must lie in [0, 1)"),
        ("mesh.rules", [[".*", "fdsp"]], "config.mesh.rules: no rule 'fdsp'"),
        ("task.std", [0.1, 0.2], "config.task.std: must have 1 or 1 numbers"),
    ],
)
def test_a_wrong_config_is_refused_by_name(experiment, key, value, message):
    with pytest.raises(ConfigError) as error:
        from_config_dict(Experiment, changed(experiment, key, value))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_an_integer_serves_as_a_float(experiment):
    decoded = from_config_dict(Experiment, changed(experiment, "optimizer.learning_rate", 1))
    assert decoded.optimizer.learning_rate == 1.0
    assert isinstance(decoded.optimizer.learning_rate, float)


def test_differences_name_the_leaf(experiment, with_model):
    old, new = to_config_dict(experiment), to_config_dict(with_model(ResNet(depth=50)))
    lines = differences(old.to_dict(), new.to_dict())
    assert "task.model.type: MLP -> ResNet" in lines
    assert "task.model.depth: (absent) -> 50" in lines
    assert not any(line.startswith("optimizer") for line in lines)


def test_every_key_is_read_somewhere():
    """A key that nobody reads would be accepted in silence."""
    package = Path(research.__file__).parent
    read, declared = set(), set()
    for path in package.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                read.add(node.attr)
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                read.add(node.value.split(".")[-1])  # getattr by a key's name
    pending = [Experiment]
    for name in Experiment.__dataclass_fields__["task"].type.variants():
        pending.append(Experiment.__dataclass_fields__["task"].type.variants()[name])
    while pending:
        for field in dataclasses.fields(pending.pop()):
            declared.add(field.name)
            kinds = getattr(field.type, "__args__", (field.type,))
            pending += [kind for kind in kinds if dataclasses.is_dataclass(kind)]
    assert len(declared) > 40
    assert declared - read - {"parent", "name"} == set()


@pytest.mark.parametrize("path", sorted((ROOT / "research").rglob("*.py")), ids=lambda p: p.stem)
def test_every_key_is_documented_beneath_itself(path):
    tree = ast.parse(path.read_text())
    for node in [n for n in ast.walk(tree) if isinstance(n, ast.ClassDef)]:
        if (
            not {"Optimizer", "Experiment", "MeshConfig"} & {node.name}
            and "tasks" not in path.parts
            and path.stem != "tokenizers"
        ):
            continue
        if any("PyTreeNode" in ast.unparse(base) for base in node.bases):
            continue  # arrays, not a config
        for here, below in zip(node.body, [*node.body[1:], None], strict=True):
            private = node.name.startswith("_") or not isinstance(here, ast.AnnAssign)
            if private or here.value is None or "not_configured" in ast.unparse(here):
                continue
            documented = isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)
            assert documented, f"{node.name}.{ast.unparse(here.target)} says nothing of itself"
