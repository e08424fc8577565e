"""The search against a table of probabilities, in which every sequence can be tried."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.tasks.sequence_to_sequence.beam_search import END, beam_search

CLASSES, CAPACITY = 4, 5


def language(seed, batch=3):
    """Log-probabilities [batch, position, class before, class]: what follows what, and where."""
    logits = np.random.default_rng(seed).normal(size=(batch, CAPACITY, CLASSES, CLASSES)) * 2
    return jax.nn.log_softmax(jnp.array(logits, jnp.float32))


@partial(jax.jit, static_argnames=("beam", "penalty", "capacity"))
def search_on_device(table, beam, penalty, capacity):
    """Finds sequences; the state is all that was written, the cache what each slot wrote."""
    batch = len(table)

    def step(state, cache, tokens, lineage, position):
        written = state.at[:, :, position].set(tokens)
        cache = cache.at[:, position].set(tokens)
        # What a hypothesis wrote is found in the cache by the slots it stood in.
        found = jnp.take_along_axis(cache, lineage.swapaxes(1, 2), axis=2).swapaxes(1, 2)
        same = (found == written) | (jnp.arange(capacity) > position)
        log_probs = table[jnp.arange(batch)[:, None], position, tokens]
        return jnp.where(same.all(axis=2)[..., None], log_probs, jnp.nan), written, cache

    state = jnp.zeros((batch, beam, capacity), jnp.int32)
    cache = jnp.zeros((batch, capacity, beam), jnp.int32)
    return beam_search(step, state, cache, batch, beam, capacity, penalty)


def search(table, beam, penalty=0.6, capacity=CAPACITY):
    return jax.device_get(search_on_device(table, beam, penalty, capacity))


def score(table, tokens, penalty):
    before = (END, *tokens[:-1])
    total = sum(float(table[i, a, b]) for i, (a, b) in enumerate(zip(before, tokens, strict=True)))
    return total / ((5 + len(tokens)) / 6) ** penalty


def ended_sequences():
    for length in range(CAPACITY):
        for tokens in itertools.product(range(1, CLASSES), repeat=length):
            yield (*tokens, END)


def written(found, example):
    """The hypotheses of an example, as tuples of tokens with the end."""
    rows = zip(found.tokens[example].tolist(), found.lengths[example].tolist(), strict=True)
    return [(*tokens[:count], END) for tokens, count in rows]


@pytest.mark.parametrize("penalty", [0.0, 1.0])
def test_a_wide_beam_finds_the_best_of_all_sequences(penalty):
    table = language(0)
    found = search(table, beam=400, penalty=penalty)
    for example in range(len(table)):
        scores = {tokens: score(table[example], tokens, penalty) for tokens in ended_sequences()}
        best = sorted(scores, key=scores.__getitem__, reverse=True)[:5]
        assert written(found, example)[:5] == best
        expected = [scores[tokens] for tokens in best]
        np.testing.assert_allclose(found.score[example, :5], expected, rtol=1e-5)


def test_a_beam_of_one_is_greedy():
    for seed in range(20):
        table = language(seed)
        found = search(table, beam=1)
        for example in range(len(table)):
            last, tokens = END, []
            while len(tokens) < CAPACITY:
                last = int(table[example, len(tokens), last].argmax())
                if last == END:
                    break
                tokens.append(last)
            assert found.tokens[example, 0, : found.lengths[example, 0]].tolist() == tokens


def test_hypotheses_differ_and_come_best_first():
    found = search(language(1), beam=4)
    for example in range(3):
        assert len(set(written(found, example))) == 4
    assert (np.diff(found.score, axis=1) <= 0).all()
    behind = np.arange(CAPACITY) >= found.lengths[..., None]
    assert (found.tokens[behind] == END).all() and (found.tokens[~behind] != END).all()


def test_a_penalty_favours_length():
    table = language(2, batch=40)
    short, long = (search(table, 8, penalty).lengths[:, 0].mean() for penalty in (0.0, 3.0))
    assert long > short


def test_what_has_not_ended_comes_last():
    never = language(3).at[0, :, :, END].set(-1e9)  # the first example has no end
    found = search(never, beam=3, capacity=4)
    assert (found.lengths[0] == 4).all() and np.isfinite(found.score[0]).all()
    # One ending alone, less probable than to go on, still stands before it.
    once = jnp.full((1, 4, CLASSES, CLASSES), -3.0).at[..., 1].set(0.0).at[..., END].set(-1e9)
    found = search(once.at[:, 0, :, END].set(-1.0), beam=3, capacity=4)
    assert found.lengths[0].tolist() == [0, 4, 4]
    assert found.score[0, 0] < found.score[0, 1]


def test_no_example_depends_on_the_others():
    table = language(4, batch=6)
    together = search(table, beam=3)
    for example in range(6):
        alone = search(table[example : example + 1], beam=3)
        np.testing.assert_array_equal(alone.tokens[0], together.tokens[example])
        np.testing.assert_allclose(alone.score[0], together.score[example], rtol=1e-6)
