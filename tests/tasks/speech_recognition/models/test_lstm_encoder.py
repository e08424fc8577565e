from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.common.errors import ConfigError
from research.tasks.speech_recognition.models import LSTMEncoder

FEATURES = 6


def make(**options):
    model = LSTMEncoder(
        channels=(8, 8),
        kernel_size=3,
        strides=(2, 2),
        num_layers=2,
        features=5,
        num_classes=4,
        **options,
    )
    x = jax.random.normal(jax.random.key(0), (3, 21, FEATURES))
    lengths = jnp.array([21, 10, 1])
    x = jnp.where(jnp.arange(21)[:, None] < lengths[:, None, None], x, 0)
    init = jax.jit(partial(model.init, train=False))
    return model, init(jax.random.key(1), x, lengths), x, lengths


@pytest.mark.slow
@pytest.mark.parametrize("bidirectional", [False, True])
def test_result_does_not_depend_on_padding(bidirectional):
    model, params, x, lengths = make(bidirectional=bidirectional)
    apply = jax.jit(partial(model.apply, params, train=False))
    short, long = apply(x, lengths), apply(jnp.pad(x, ((0, 0), (0, 8), (0, 0))), lengths)
    assert short.shape == (3, 6, 4) and long.shape == (3, 8, 4)
    for row, frames in enumerate(model.num_frames(lengths)):
        np.testing.assert_allclose(short[row, :frames], long[row, :frames], atol=1e-5)
        alone = apply(x[row : row + 1], lengths[row : row + 1])
        np.testing.assert_allclose(alone[0, :frames], short[row, :frames], atol=1e-5)
    np.testing.assert_allclose(jnp.exp(short).sum(-1), 1, atol=1e-5)


@pytest.mark.slow
def test_look_ahead_is_the_receptive_field_after_a_frame():
    model, params, x, _ = make(bidirectional=False)
    lengths = jnp.full(3, 21)
    score = lambda x: model.apply(params, x, lengths, train=False)[0, 2, 1]  # noqa: E731
    is_used = np.abs(jax.jit(jax.grad(score))(x)[0]).sum(-1) > 0
    # The own features of output frame i are those from i * stride to (i + 1) * stride.
    assert is_used.nonzero()[0].max() == 2 * model.stride + model.look_ahead
    assert is_used[0] and model.window == model.look_back + 1 + model.look_ahead


@pytest.mark.slow
def test_dropout_is_applied_in_training_only():
    model, params, x, lengths = make(dropout=0.5)

    @partial(jax.jit, static_argnums=0)
    def run(train, seed):
        rngs = {"dropout": jax.random.key(seed)}
        return model.apply(params, x, lengths, train=train, rngs=rngs)

    assert np.array_equal(run(False, 0), run(False, 1))
    assert not np.allclose(run(True, 0), run(True, 1))


@pytest.mark.parametrize(
    "options", [{"strides": (2,)}, {"kernel_size": 0}, {"num_layers": 0}, {"dropout": 1.0}]
)
def test_invalid_values_raise(options):
    with pytest.raises(ConfigError, match=next(iter(options))):
        LSTMEncoder(**options).check()
