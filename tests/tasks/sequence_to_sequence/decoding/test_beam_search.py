"""Beam search over a table of probabilities, compared with exhaustive search."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.tasks.sequence_to_sequence.decoding import EOS, beam_search

CLASSES, MAX_LENGTH = 4, 5


def language(seed, batch=3):
    """Log-probabilities [batch, position, previous class, class]."""
    logits = np.random.default_rng(seed).normal(size=(batch, MAX_LENGTH, CLASSES, CLASSES)) * 2
    return jax.nn.log_softmax(jnp.array(logits, jnp.float32))


@partial(jax.jit, static_argnames=("beam", "penalty", "max_length"))
def search_on_device(table, beam, penalty, max_length):
    """Searches, with each hypothesis's prefix as state and each slot's tokens as cache."""
    batch = len(table)

    def step(state, cache, tokens, ancestors, position):
        prefix = state.at[:, :, position].set(tokens)
        cache = cache.at[:, position].set(tokens)
        # The ancestors lead to the same prefix in the cache.
        found = jnp.take_along_axis(cache, ancestors.swapaxes(1, 2), axis=2).swapaxes(1, 2)
        same = (found == prefix) | (jnp.arange(max_length) > position)
        log_probs = table[jnp.arange(batch)[:, None], position, tokens]
        return jnp.where(same.all(axis=2)[..., None], log_probs, jnp.nan), prefix, cache

    state = jnp.zeros((batch, beam, max_length), jnp.int32)
    cache = jnp.zeros((batch, max_length, beam), jnp.int32)
    return beam_search(step, state, cache, batch, beam, max_length, penalty)


def search(table, beam, penalty=0.6, max_length=MAX_LENGTH):
    return jax.device_get(search_on_device(table, beam, penalty, max_length))


def score(table, tokens, penalty):
    before = (EOS, *tokens[:-1])
    total = sum(float(table[i, a, b]) for i, (a, b) in enumerate(zip(before, tokens, strict=True)))
    return total / ((5 + len(tokens)) / 6) ** penalty


def finished_sequences():
    for length in range(MAX_LENGTH):
        for tokens in itertools.product(range(1, CLASSES), repeat=length):
            yield (*tokens, EOS)


def sequences(found, example):
    """The hypotheses of an example, as tuples of tokens with EOS."""
    rows = zip(found.tokens[example].tolist(), found.lengths[example].tolist(), strict=True)
    return [(*tokens[:count], EOS) for tokens, count in rows]


@pytest.mark.parametrize("penalty", [0.0, 1.0])
def test_a_wide_beam_equals_exhaustive_search(penalty):
    table = language(0)
    found = search(table, beam=400, penalty=penalty)
    for example in range(len(table)):
        scores = {tokens: score(table[example], tokens, penalty) for tokens in finished_sequences()}
        best = sorted(scores, key=scores.__getitem__, reverse=True)[:5]
        assert sequences(found, example)[:5] == best
        expected = [scores[tokens] for tokens in best]
        np.testing.assert_allclose(found.score[example, :5], expected, rtol=1e-5)


def test_a_beam_of_one_is_greedy_search():
    for seed in range(20):
        table = language(seed)
        found = search(table, beam=1)
        for example in range(len(table)):
            last, tokens = EOS, []
            while len(tokens) < MAX_LENGTH:
                last = int(table[example, len(tokens), last].argmax())
                if last == EOS:
                    break
                tokens.append(last)
            assert found.tokens[example, 0, : found.lengths[example, 0]].tolist() == tokens


def test_hypotheses_are_distinct_and_sorted_by_score():
    found = search(language(1), beam=4)
    for example in range(3):
        assert len(set(sequences(found, example))) == 4
    assert (np.diff(found.score, axis=1) <= 0).all()
    padding = np.arange(MAX_LENGTH) >= found.lengths[..., None]
    assert (found.tokens[padding] == EOS).all() and (found.tokens[~padding] != EOS).all()


@pytest.mark.slow
def test_a_length_penalty_favours_long_sequences():
    table = language(2, batch=40)
    short, long = (search(table, 8, penalty).lengths[:, 0].mean() for penalty in (0.0, 3.0))
    assert long > short


@pytest.mark.slow
def test_unfinished_hypotheses_are_ranked_last():
    never = language(3).at[0, :, :, EOS].set(-1e9)  # the first example cannot end
    found = search(never, beam=3, max_length=4)
    assert (found.lengths[0] == 4).all() and np.isfinite(found.score[0]).all()
    # A single finished hypothesis, less probable than continuing, is still ranked first.
    once = jnp.full((1, 4, CLASSES, CLASSES), -3.0).at[..., 1].set(0.0).at[..., EOS].set(-1e9)
    found = search(once.at[:, 0, :, EOS].set(-1.0), beam=3, max_length=4)
    assert found.lengths[0].tolist() == [0, 4, 4]
    assert found.score[0, 0] < found.score[0, 1]


def test_examples_are_independent():
    table = language(4, batch=6)
    together = search(table, beam=3)
    for example in range(6):
        alone = search(table[example : example + 1], beam=3)
        np.testing.assert_array_equal(alone.tokens[0], together.tokens[example])
        np.testing.assert_allclose(alone.score[0], together.score[example], rtol=1e-6)
