import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from research.hardware.target import Target
from research.tasks.speech_recognition.ctc import ctc_loss
from tests.tpu import tpu_operations


def utterances(seed, batch, frames, capacity, classes, scale=2.0):
    """Random logits, with at least 1 frame and 0 tokens; with few classes, tokens repeat."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, scale, (batch, frames, classes)).astype(np.float32)
    lengths = rng.integers(1, frames + 1, batch)
    lengths[0] = frames
    tokens = rng.integers(classes - 1, size=(batch, capacity))
    return logits, lengths, tokens, rng.integers(capacity + 1, size=batch)


def is_alignable(frames, tokens, token_count):
    is_token = np.arange(1, tokens.shape[1]) < token_count[:, None]
    repeats = (is_token & (tokens[:, 1:] == tokens[:, :-1])).sum(axis=1)
    return frames >= token_count + repeats


def with_gradient(loss, logits, frames, tokens, token_count):
    """Losses of utterances with an alignment, and the gradient of their sum."""
    counted = is_alignable(frames, tokens, token_count)

    def total(logits):
        losses = loss(jax.nn.log_softmax(logits), frames, tokens, token_count)
        losses = jnp.where(counted, losses, 0)
        return losses.sum(), losses

    (_, losses), gradient = jax.jit(jax.value_and_grad(total, has_aux=True))(logits)
    return losses, gradient


def optax_loss(log_probs, frames, tokens, token_count):
    padding = jnp.arange(log_probs.shape[1]) >= frames[:, None]
    is_token = jnp.arange(tokens.shape[1]) < token_count[:, None]
    dtype = log_probs.dtype
    return optax.ctc_loss(
        log_probs,
        padding.astype(dtype),
        jnp.where(is_token, tokens + 1, 0),
        (~is_token).astype(dtype),
        log_epsilon=-1e30,
    )


@pytest.mark.parametrize(
    ("shape", "platform"),
    [
        ((40, 12, 5, 3), "tpu"),
        ((30, 30, 9, 6), "cpu"),
        pytest.param((3, 1, 1, 2), "cpu", marks=pytest.mark.slow),
    ],
)
def test_loss_and_gradient_equal_those_of_optax(shape, platform, monkeypatch):
    monkeypatch.setattr("research.tasks.speech_recognition.ctc.target", lambda: Target(platform, 1))
    batch = utterances(0, *shape)
    losses, gradient = with_gradient(ctc_loss, *batch)
    expected_losses, expected_gradient = with_gradient(optax_loss, *batch)
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(gradient, expected_gradient, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("scale", [0.1, 4.0])
def test_long_utterances_are_as_exact_as_short_ones(scale, standard_promotion):
    """The gradient of optax in float32 is wrong by 1e-4 here."""
    batch = utterances(0, 8, 200, 40, 30, scale)
    losses, gradient = with_gradient(ctc_loss, *batch)
    with jax.enable_x64(True):
        exact = with_gradient(optax_loss, batch[0].astype(np.float64), *batch[1:])
    np.testing.assert_allclose(losses, exact[0], rtol=1e-6)
    np.testing.assert_allclose(gradient, exact[1], atol=1e-5)


def test_every_alignment_of_a_transcript_is_counted():
    """Of three equally probable classes, in three frames, "a b" has five alignments, "a a" one."""
    log_probs = jnp.full((4, 3, 3), -np.log(3.0))
    tokens = jnp.array([[0, 1], [0, 0], [0, 0], [0, 0]])
    losses = ctc_loss(log_probs, jnp.full(4, 3), tokens, jnp.array([2, 2, 0, 1]))
    np.testing.assert_allclose(losses, np.log(27 / np.array([5, 1, 1, 6])), rtol=1e-6)


def test_the_gradient_of_a_transcript_without_alignment_is_finite():
    log_probs = jax.nn.log_softmax(jax.random.normal(jax.random.key(0), (2, 4, 3)))
    tokens = jnp.array([[0, 0, 0, 1], [0, 1, 0, 1]])
    arguments = jnp.full(2, 4), tokens, jnp.full(2, 4)
    losses, gradient = jax.value_and_grad(lambda x: ctc_loss(x, *arguments).sum())(log_probs)
    assert losses > 1e29 and np.isfinite(gradient).all()


def test_padding_has_no_influence():
    logits, frames, tokens, count = utterances(1, 4, 10, 4, 5)
    frames, count = np.array([10, 7, 7, 5]), np.array([4, 0, 2, 2])
    losses, gradient = with_gradient(ctc_loss, logits, frames, tokens, count)
    logits = np.pad(logits, ((0, 0), (0, 3), (0, 0)), constant_values=5)
    tokens = np.pad(np.where(np.arange(4) < count[:, None], tokens, 3), ((0, 0), (0, 2)))
    padded_losses, padded_gradient = with_gradient(ctc_loss, logits, frames, tokens, count)
    np.testing.assert_allclose(padded_losses, losses, rtol=1e-6)
    np.testing.assert_allclose(padded_gradient[:, :10], gradient, atol=1e-6)
    assert not padded_gradient[1, 7:].any() and not padded_gradient[3, 5:].any()


@pytest.mark.slow
def test_loss_and_gradient_are_one_loop_on_a_tpu():
    def gradient(log_probs, frames, tokens, count):
        return jax.grad(lambda x: ctc_loss(x, frames, tokens, count).sum())(log_probs)

    batch = utterances(0, 8, 20, 5, 6)
    operations = tpu_operations(gradient, *map(jnp.asarray, batch))
    assert operations["while"] == 1 and not operations["gather"] and not operations["scatter"]
