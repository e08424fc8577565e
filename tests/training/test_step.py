import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from research.hardware.mesh import MeshConfig, batch_sharding
from research.task import Average, Task
from research.tasks.image_classification.augmentation import Augmentation
from research.tasks.image_classification.models import CNN
from research.training.input import input_pipeline
from research.training.optimizer import Optimizer
from research.training.program import Program
from research.training.state import InferenceState, initial_state
from research.training.step import evaluate_step, train_step


def batches(program, steps, masked=0):
    """Yields training batches with the last `masked` examples masked out."""
    pipeline = input_pipeline(program, program.task.dataset("train"), training=True)
    for batch in pipeline.batches(0, steps):
        mask = np.ones(program.experiment.batch_size, np.float32)
        mask[len(mask) - masked :] = 0
        yield batch | {"mask": jax.device_put(mask, batch_sharding(program.mesh))}


def run(experiment, steps, masked=0):
    program = Program(experiment, experiment.optimizer.resolve_schedule(total_steps=steps))
    state, losses = program.initialize(), []
    for batch in batches(program, steps, masked):
        state, loss = program.train_step(state, batch)
        losses.append(float(loss))
    return jax.device_get(state), np.array(losses)


MESHES = [
    {"devices": 2},
    {"devices": 4},
    {"devices": 8},
    {"devices": 2, "fsdp": 2},
    {"devices": 8, "fsdp": 8},
    {"devices": 8, "fsdp": 4},
    {"devices": 8, "fsdp": 2, "tensor": 2},
    {
        "devices": 8,
        "fsdp": 2,
        "tensor": 4,
        "rules": (("Conv_1/kernel", (None, None, "fsdp", "tensor")), (".*", "fsdp")),
    },
]


@pytest.fixture(scope="module")
def one_device_losses():
    return {}


@pytest.mark.slow
@pytest.mark.usefixtures("full_compilation")
@pytest.mark.parametrize("mesh", MESHES, ids=str)
def test_the_loss_is_the_same_on_any_mesh(with_model, one_device_losses, mesh):
    """Twenty steps with batch normalisation, augmentation and Adam, in float32."""
    experiment = with_model(CNN(widths=(8,)), augmentation=Augmentation(crop_padding=1, mixup=0.2))
    if "losses" not in one_device_losses:
        one_device_losses["losses"] = run(experiment, 20)[1]
    _, losses = run(dataclasses.replace(experiment, mesh=MeshConfig(**mesh)), 20)
    np.testing.assert_allclose(losses, one_device_losses["losses"], rtol=1e-5)


def test_parameters_and_moments_are_sharded_by_the_rules(with_model):
    rules = (("head/kernel", (None, None)), ("Conv_1", "replicate"), (".*", "fsdp"))
    mesh = MeshConfig(fsdp=4, tensor=2, rules=rules)
    experiment = dataclasses.replace(with_model(CNN(widths=(8, 16))), mesh=mesh)
    state = Program(experiment).initialize()
    shards = lambda x: {shard.data.shape for shard in x.addressable_shards}  # noqa: E731
    moments = state.opt_state[0][0].mu
    for tree in (state.params, moments):
        assert shards(tree["Conv_3"]["kernel"]) in ({(3, 3, 16, 4)}, {(3, 3, 4, 16)})
        assert shards(tree["Conv_1"]["kernel"]) == {(3, 3, 8, 8)}
        assert shards(tree["head"]["kernel"]) == {state.params["head"]["kernel"].shape}


@pytest.mark.parametrize("masked", [0, 23])
def test_accumulating_four_parts_equals_the_full_batch(experiment, masked):
    experiment = dataclasses.replace(experiment, optimizer=Optimizer(name="sgd", learning_rate=0.1))
    full, losses = run(experiment, 10, masked)
    parts, part_losses = run(
        dataclasses.replace(experiment, gradient_accumulation_steps=4), 10, masked
    )
    np.testing.assert_allclose(part_losses, losses, rtol=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), full.params, parts.params
    )


def test_masked_examples_are_excluded(experiment):
    """Loss and gradient do not depend on the contents of masked examples."""
    program = Program(experiment)
    batch = next(batches(program, 1, masked=30))
    other = jnp.where(batch["mask"][:, None, None, None] > 0, batch["image"], 255 - batch["image"])
    changed = batch | {"image": jax.device_put(np.asarray(other), batch_sharding(program.mesh))}
    (a, loss_a), (b, loss_b) = (
        program.train_step(program.initialize(), x) for x in (batch, changed)
    )
    assert float(loss_a) == float(loss_b)
    jax.tree.map(np.testing.assert_array_equal, a.params, b.params)
    assert float(a.totals["loss"].count) == 34


@pytest.mark.parametrize("decay", [0.6, 0.99])
def test_the_moving_average_equals_its_formula(experiment, decay):
    """Compares each of 20 steps with the decay min(decay, (1 + t) / (10 + t)) in float64.

    The parameters have to move until the end: the average of constant ones forgets its decay.
    """
    constant = Optimizer(learning_rate=1e-2, schedule="constant")
    program = Program(dataclasses.replace(experiment, ema_decay=decay, optimizer=constant))
    state = program.initialize()
    expected = np.asarray(state.params["Dense_0"]["kernel"], np.float64)
    for step, batch in enumerate(batches(program, 20)):
        state, _ = program.train_step(state, batch)
        keep = min(decay, (1 + step) / (10 + step))
        expected = keep * expected + (1 - keep) * np.asarray(state.params["Dense_0"]["kernel"])
        np.testing.assert_allclose(state.ema["Dense_0"]["kernel"], expected, rtol=1e-5, atol=1e-6)
    assert state.inference.params is state.ema


def test_accumulation_does_not_move_examples_between_devices(experiment):
    """The only collective is the all-reduce of the gradients."""
    experiment = dataclasses.replace(experiment, mesh=MeshConfig(devices=4))
    program = Program(dataclasses.replace(experiment, gradient_accumulation_steps=4))
    step = program.train_step.lower(program.state_shape, program.batch_shape()).compile()
    collectives = re.findall(r" (all-\w[\w-]*|collective-\w+|reduce-scatter)\(", step.as_text())
    assert collectives and set(collectives) == {"all-reduce"}


@pytest.mark.slow
@pytest.mark.usefixtures("standard_promotion")
def test_bfloat16_computes_with_float32_parameters(with_model):
    experiment = with_model(CNN(widths=(8, 16)), dtype="bfloat16")
    state, losses = run(experiment, 20)
    assert {leaf.dtype for leaf in jax.tree.leaves((state.params, state.opt_state[0][0].mu))} == {
        np.dtype("float32")
    }
    text = (
        Program(experiment)
        .train_step.lower(Program(experiment).state_shape, Program(experiment).batch_shape())
        .as_text()
    )
    convolutions = [line for line in text.splitlines() if "stablehlo.convolution" in line]
    assert convolutions
    assert all("bf16" in line for line in convolutions)
    assert losses[-1] < 0.7 * losses[0]


def test_the_gradient_is_that_of_the_mean_over_unmasked_examples(experiment):
    sgd = Optimizer(name="sgd", learning_rate=0.1, schedule="constant")
    program = Program(dataclasses.replace(experiment, optimizer=sgd))
    batch = next(batches(program, 1, masked=30))
    state = program.initialize()
    real = {name: np.asarray(array)[:34] for name, array in batch.items()}

    def mean_loss(params):
        key = jax.random.key(0)  # unused: the task has neither augmentation nor dropout
        return program.task.loss(params, {}, real, key, train=True)[0]["loss"].total / 34

    expected = jax.tree.map(
        lambda p, g: p - 0.1 * g, state.params, jax.grad(mean_loss)(state.params)
    )
    after, _ = program.train_step(state, batch)
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6), after.params, expected
    )


@pytest.mark.slow
def test_each_step_draws_new_random_numbers(with_model):
    """Trains on the same batch twice with a learning rate of 0: only random numbers can differ."""
    still = Optimizer(name="sgd", learning_rate=0.0)
    experiment = with_model(CNN(widths=(8,)), augmentation=Augmentation(crop_padding=2))
    program = Program(dataclasses.replace(experiment, optimizer=still))
    batch = next(batches(program, 1))
    state, first = program.train_step(program.initialize(), batch)
    _, second = program.train_step(state, batch)
    _, again = program.train_step(program.initialize(), batch)
    assert float(first) == float(again) != float(second)


def test_the_state_is_donated(experiment):
    """A second copy of the state would halve the size of the largest model."""
    program = Program(experiment)
    state = program.initialize()
    program.train_step(state, next(batches(program, 1)))
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves((state.params, state.opt_state)))


class Draws(Task):
    """Its variables keep the numbers that `loss` has drawn; the loss is 3, in evaluation 2."""

    def batch_spec(self, batch_size, length):
        return {"x": jax.ShapeDtypeStruct((batch_size,), jnp.float32)}

    def dataset(self, split):
        raise NotImplementedError

    def init(self, key):
        return {"weight": jnp.ones(())}, {"drawn": jnp.zeros(4)}

    def loss(self, params, variables, batch, key, train):
        drawn = jnp.roll(variables["drawn"], 1).at[0].set(jax.random.uniform(key))
        total = ((3 if train else 2) * params["weight"] * batch["mask"]).sum()
        return {"loss": Average(total, batch["mask"].sum())}, {"drawn": drawn}

    def predict(self, params, variables, batch):
        return {"doubled": 2 * batch["x"]}

    def scorer(self):
        raise NotImplementedError

    def predictor(self):
        raise NotImplementedError


def step_of_draws(parts, seed=0):
    """The state after one step, whose optimizer state is the loss that the optimizer received."""
    optimizer = optax.GradientTransformationExtraArgs(
        lambda params: jnp.zeros(()), lambda updates, state, params=None, *, value: (updates, value)
    )
    params, variables = Draws().init(jax.random.key(0))
    trained = jax.tree.map(lambda _: 0, params)
    rate = optax.constant_schedule(0.1)
    step = train_step(Draws(), optimizer, rate, trained, parts, 0.0, seed)
    names = ("loss", "gradient_norm", "learning_rate")
    initialize = initial_state(optimizer, trained, False, names)
    batch = {"x": np.zeros(8, np.float32), "mask": np.float32([1, 1, 1, 1, 1, 0, 0, 0])}
    return jax.jit(lambda: step(initialize(params, variables), batch)[0])()


def test_accumulated_parts_draw_apart_and_pass_on_their_variables():
    """Equal draws would give every part the same dropout; all four numbers have to arrive."""
    drawn = step_of_draws(parts=4).variables["drawn"].tolist()
    assert len(set(drawn)) == 4 and 0 not in drawn


def test_random_numbers_depend_on_the_seed():
    drawn = [float(step_of_draws(1, seed).variables["drawn"][0]) for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]


@pytest.mark.parametrize("parts", [1, 4])
def test_the_optimizer_receives_the_mean_loss_of_the_real_examples(parts):
    assert float(step_of_draws(parts).opt_state) == 3


def test_evaluation_computes_the_loss_without_training_and_returns_the_targets():
    state = InferenceState(
        step=0, params={"weight": jnp.ones(())}, variables={"drawn": jnp.ones(4)}
    )
    batch = {name: jnp.arange(2.0) for name in ("x", "y", "index")} | {"mask": jnp.ones(2)}
    averages, predictions, targets = evaluate_step(Draws(), ("y",))(state, batch)
    assert float(averages["loss"].total / averages["loss"].count) == 2
    assert predictions["doubled"].tolist() == [0, 2]
    assert set(targets) == {"y", "index", "mask"}
