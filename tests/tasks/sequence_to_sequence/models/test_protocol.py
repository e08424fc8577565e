"""Both models: decoding step by step equals teacher forcing; padding and packing do not matter."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.common.errors import ConfigError
from research.tasks.sequence_to_sequence.models import AttentionLSTM, Pairs, Transformer

from ..conftest import MODELS

SOURCES, TARGETS = [5, 9, 3], [4, 7, 1]


def pairs(seed=0, source_length=9, target_length=7):
    """Random pairs of several lengths."""
    rng = np.random.default_rng(seed)

    def side(lengths, length):
        valid = np.arange(length) < np.array(lengths)[:, None]
        return [rng.integers(1, 9, valid.shape) * valid, valid.astype(int)]

    arrays = side(SOURCES, source_length) + side(TARGETS, target_length)
    return Pairs(*(jnp.array(array, jnp.int32) for array in arrays))


@pytest.fixture
def network(model):
    return model.clone(num_source_classes=9, num_target_classes=9)


@cache
def trained(network):
    """Parameters far from their initial values, with which results could agree by chance."""
    params = jax.jit(partial(network.init, train=False))(jax.random.key(0), pairs())
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    moved = [
        leaf + 0.3 * jax.random.normal(k, leaf.shape) for leaf, k in zip(leaves, keys, strict=True)
    ]
    return jax.tree.unflatten(tree, moved)


@pytest.fixture
def params(network):
    return trained(network)


def score(network, params, batch):
    """Logits and attention, without dropout."""
    return jax.jit(partial(network.apply, train=False))(params, batch)


def valid(array, lengths):
    return [np.asarray(row[:length]) for row, length in zip(array, lengths, strict=True)]


def test_decoding_step_by_step_equals_teacher_forcing(network, params):
    batch, beam, max_length = pairs(), 2, 7
    logits, _ = score(network, params, batch)
    begin = partial(network.apply, beam_size=beam, max_length=max_length, method="init_decoding")
    memory, state, cache = jax.jit(begin)(params, batch.source, batch.source_segments)
    before = jnp.pad(batch.target[:, :-1], ((0, 0), (1, 0)))
    # The first hypothesis is the target; the second is another sequence.
    inputs = jnp.stack([before, (before * 5 + 2) % 9], axis=1)
    ancestors = jnp.broadcast_to(jnp.arange(beam)[:, None], (3, beam, max_length))
    step = jax.jit(lambda *now: network.apply(params, memory, *now, method="decode_step"))
    for position in range(max_length):
        found, state, cache = step(state, cache, inputs[:, :, position], ancestors, position)
        reached = np.array(TARGETS) > position
        np.testing.assert_allclose(
            found[reached, 0], logits[reached, position], rtol=1e-5, atol=1e-5
        )


@pytest.mark.slow
def test_the_decoder_is_causal(network, params):
    batch = pairs()
    logits, _ = score(network, params, batch)
    later = batch._replace(target=batch.target.at[1, 4:].set(8))
    changed, _ = score(network, params, later)
    np.testing.assert_allclose(changed[1, :5], logits[1, :5], rtol=1e-6)
    assert not np.allclose(changed[1, 5:], logits[1, 5:])


def test_attention_weights_are_a_distribution_over_the_source(network, params):
    batch = pairs()
    _, weights = score(network, params, batch)
    assert weights.shape == (3, 7, 9)
    for row, source, target in zip(weights, SOURCES, TARGETS, strict=True):
        np.testing.assert_allclose(row[:target, :source].sum(axis=1), 1, rtol=1e-5)
        assert (row[:target, source:] == 0).all()


@pytest.mark.slow
def test_packed_pairs_are_independent():
    network = MODELS["transformer"].clone(num_source_classes=9, num_target_classes=9)
    batch = pairs()
    params = trained(network)
    packed = [
        np.concatenate(valid(array, lengths))[None]
        for array, lengths in zip(batch, [SOURCES, SOURCES, TARGETS, TARGETS], strict=True)
    ]
    for segments, lengths in ((packed[1], SOURCES), (packed[3], TARGETS)):
        segments[0] = np.repeat([1, 2, 3], lengths)
    # The EOS of a pair is the first decoder input of the next pair.
    ends = np.cumsum(TARGETS) - 1
    packed[2][0, ends] = 0
    ended = batch.target.at[np.arange(3), np.array(TARGETS) - 1].set(0)
    alone, _ = score(network, params, batch._replace(target=ended))
    together, _ = score(network, params, Pairs(*map(jnp.array, packed)))
    np.testing.assert_allclose(
        together[0], np.concatenate(valid(alone, TARGETS)), rtol=1e-5, atol=1e-5
    )


def test_a_shared_embedding_is_one_parameter(model):
    def embeddings(shared):
        network = model.clone(num_source_classes=9, num_target_classes=9, shared_embedding=shared)
        init = partial(network.init, train=False)
        params = jax.eval_shape(init, jax.random.key(0), pairs())["params"]
        return [name for name in params if "embedding" in name]

    assert len(embeddings(shared=True)) == 1 and len(embeddings(shared=False)) == 2


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (AttentionLSTM(features=0), "features: invalid value 0: expected at least 1"),
        (AttentionLSTM(dropout=1.0), r"dropout: invalid rate 1.0: expected a number in \[0, 1\)"),
        (Transformer(features=30, num_heads=4), "expected an even number divisible by num_heads=4"),
    ],
)
def test_invalid_sizes_are_refused(bad, message):
    with pytest.raises(ConfigError, match=message):
        bad.check()
