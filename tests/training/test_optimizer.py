import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from research.common.config import from_config_dict, to_config_dict
from research.common.errors import ConfigError
from research.training.experiment import Experiment
from research.training.loop import Trainer
from research.training.optimizer import Optimizer
from research.training.run import open_run
from tests.training.states import saved_state
from tests.training.test_step import run

# Optimizers of optax that need inputs other than gradients, parameters and the loss, arguments
# without a default, or a constant learning rate.
REFUSED = {"dpsgd", "lbfgs", "optimistic_adam", "rprop", "sm3", "sophia"}
# These need further arguments to make progress in two steps, or update rarely.
SLOW = {
    "adadelta",
    "cocob",
    "dadapt_adamw",
    "dog",
    "dowg",
    "fromage",
    "prodigy",
    "galore",
    "noisy_sgd",
}


def all_names():
    """Returns all functions of optax whose first argument is a learning rate."""
    from research.training.optimizer import _makers

    return sorted(_makers())


@pytest.mark.parametrize("name", all_names())
def test_every_optimizer_of_optax_updates_or_is_refused_in_one_line(name):
    optimizer, rate = Optimizer(name=name), optax.constant_schedule(1e-2)
    params = {"kernel": jnp.ones((4, 4)), "bias": jnp.ones(4)}
    if name in REFUSED:
        with pytest.raises(ConfigError, match=r"config\.optimizer\.name: optax's") as error:
            optimizer.build(rate)
        assert "\n" not in str(error.value)
        return
    transform = optimizer.build(rate)
    state = transform.init(params)
    for _ in range(2):
        gradients = jax.tree.map(lambda p: 0.5 * p, params)
        updates, state = transform.update(gradients, state, params, value=jnp.ones(()))
        params = optax.apply_updates(params, updates)
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(params))
    assert name in SLOW or float(params["kernel"].mean()) < 1


@pytest.mark.slow
@pytest.mark.parametrize("name", ["adamw", "lion", "lamb", "muon", "adafactor", "momo"])
def test_optimizers_train_by_name(experiment, name):
    optimizer = Optimizer(name=name, learning_rate=3e-3)
    _, losses = run(dataclasses.replace(experiment, optimizer=optimizer), 12)
    assert losses[-1] < losses[0]


def test_updates_equal_the_formula():
    """Masked weight decay, clipping and the schedule, for SGD."""
    config = Optimizer(name="sgd", learning_rate=0.5, clip_norm=0.1, weight_decay=0.01)
    params = {"kernel": jnp.ones((3, 1)), "bias": jnp.ones(3)}
    gradients = {"kernel": jnp.full((3, 1), 2.0), "bias": jnp.full(3, 1.0)}
    transform = config.build(lambda _: 0.5)
    updates, _ = transform.update(gradients, transform.init(params), params, value=jnp.ones(()))
    norm = float(optax.tree.norm(gradients))
    np.testing.assert_allclose(updates["kernel"], -0.5 * (2 * 0.1 / norm + 0.01), rtol=1e-6)
    np.testing.assert_allclose(updates["bias"], -0.5 * (1 * 0.1 / norm), rtol=1e-6)


PARAMS = {
    "lstm": {"recurrent": jnp.ones((2, 8)), "bias": jnp.ones(8)},
    "head": {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)},
}


@pytest.mark.parametrize(
    ("mask", "decaying"),
    [
        ((), {"lstm/recurrent", "head/kernel"}),
        ((("kernel$", True),), {"head/kernel"}),
        ((("head", False), (".*", True)), {"lstm/recurrent", "lstm/bias"}),
        ((("head/bias", True), ("head", False), ("lstm", True)), {"head/bias", "lstm/recurrent",
                                                                  "lstm/bias"}),
    ],
)  # fmt: skip
@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_the_first_matching_pattern_selects_weight_decay(name, mask, decaying):
    config = Optimizer(name=name, learning_rate=1.0, weight_decay=0.1, weight_decay_mask=mask)
    transform = config.build(lambda _: 1.0)
    zeros = jax.tree.map(jnp.zeros_like, PARAMS)
    updates, _ = transform.update(zeros, transform.init(PARAMS), PARAMS, value=jnp.ones(()))
    found = {
        "/".join(str(key.key) for key in path)
        for path, leaf in jax.tree_util.tree_leaves_with_path(updates)
        if float(jnp.abs(leaf).max()) > 0
    }
    assert found == decaying


@pytest.mark.parametrize("mask", [(("kernl$", True),), ((".*", True), ("kernel$", False))])
def test_a_pattern_without_effect_is_refused(mask, replace_optimizer, tmp_path):
    changed = replace_optimizer(weight_decay=0.1, weight_decay_mask=mask)
    with pytest.raises(ConfigError, match=r"matches no parameter, or only those.*did you mean"):
        Trainer(changed, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_mask_saved_under_its_former_name_is_kept(experiment):
    config = to_config_dict(experiment).to_dict()
    config["optimizer"]["decay_mask"] = "kernel$"
    config["optimizer"]["clip"] = 2.0
    del config["optimizer"]["weight_decay_mask"], config["optimizer"]["clip_norm"]
    optimizer = from_config_dict(Experiment, config).optimizer
    assert optimizer.weight_decay_mask == (("kernel$", True),)
    assert optimizer.clip_norm == 2.0


@pytest.mark.slow
def test_schedule_free_optimizers_are_evaluated_at_their_average(replace_optimizer, tmp_path):
    """The parameters of the gradients and of the evaluation differ (Defazio et al. 2024)."""
    changed = replace_optimizer(name="schedule_free_adamw", learning_rate=0.05)
    run, _ = Trainer(changed, tmp_path).train()
    state = saved_state(tmp_path)
    free = next(
        node
        for node in jax.tree.leaves(state.opt_state, is_leaf=lambda n: hasattr(n, "z"))
        if hasattr(node, "z")
    )
    expected = optax.contrib.schedule_free_eval_params(free, state.params)
    for found in (run.state.params, open_run(tmp_path).state.params):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), found, expected)
    kernel = state.params["head"]["kernel"]
    assert float(jnp.abs(kernel - expected["head"]["kernel"]).max()) > 1e-3


def test_schedule_free_optimizers_refuse_a_moving_average():
    with pytest.raises(
        ConfigError, match=r"ema_decay: invalid value 0\.9: expected 0 with schedule_free"
    ):
        Experiment(task=None, optimizer=Optimizer(name="schedule_free_sgd"), ema_decay=0.9)


@pytest.mark.slow
def test_a_run_is_evaluated_without_its_optimizer(experiment, replace_optimizer, tmp_path):
    """Inference restores no optimizer state, so another optimizer opens the run."""
    Trainer(experiment, tmp_path).train()
    params = open_run(tmp_path).state.params
    other = open_run(tmp_path, changes=["optimizer.name=lion"]).state.params
    jax.tree.map(np.testing.assert_array_equal, params, other)
