"""Speedup of beam search with a Transformer by caching keys and values.

python -m tests.benchmarks.decoding

Without the cache each step decodes the whole prefix again. The script checks that both searches
find the same outputs. 64 pairs, beam 5, sources of 24 tokens, outputs of at most 40 tokens.
"""

import time
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from research.tasks.sequence_to_sequence.decoding import Hypotheses, beam_search
from research.tasks.sequence_to_sequence.models import Pairs, Transformer

BATCH, BEAM, SOURCE, CAPACITY, CLASSES = 64, 5, 24, 40, 4000
ROUNDS = 5
NETWORK = Transformer(
    features=128, num_heads=4, feedforward_dim=256, num_encoder_layers=4, num_decoder_layers=4
).clone(num_source_classes=CLASSES, num_target_classes=CLASSES)


def cached(params, source, segments) -> Hypotheses:
    """Searches as `predict` does."""
    memory, state, cache = NETWORK.apply(
        params, source, segments, BEAM, CAPACITY, method="init_decoding"
    )

    def step(*now):
        logits, state, cache = NETWORK.apply(params, memory, *now, method="decode_step")
        return jax.nn.log_softmax(logits), state, cache

    return beam_search(step, state, cache, BATCH, BEAM, CAPACITY, 0.6)


def uncached(params, source, segments) -> Hypotheses:
    """Searches with the logits of the whole prefix in each step, as in training."""
    repeated = [jnp.repeat(array, BEAM, axis=0) for array in (source, segments)]
    encoded = NETWORK.apply(params, *repeated, False, method="encode")

    def step(prefix, cache, tokens, ancestors, position):
        prefix = prefix.at[:, :, position].set(tokens)
        rows = prefix.reshape(BATCH * BEAM, CAPACITY)
        present = jnp.broadcast_to(jnp.arange(CAPACITY) <= position, rows.shape).astype(jnp.int32)
        pair = Pairs(repeated[0], repeated[1], jnp.roll(rows, -1, axis=1), present)
        logits, _ = NETWORK.apply(params, encoded, pair, False, method="decode")
        now = logits[:, position].reshape(BATCH, BEAM, CLASSES)
        return jax.nn.log_softmax(now), prefix, cache

    state = jnp.zeros((BATCH, BEAM, CAPACITY), jnp.int32)
    return beam_search(step, state, (), BATCH, BEAM, CAPACITY, 0.6)


def seconds(search) -> tuple[float, Hypotheses]:
    """Returns the median time of a search, and its hypotheses."""
    found = jax.block_until_ready(search())
    times = []
    for _ in range(ROUNDS):
        begin = time.perf_counter()
        jax.block_until_ready(search())
        times.append(time.perf_counter() - begin)
    return float(np.median(times)), found


def main() -> None:
    """Prints both times and their ratio."""
    key = jax.random.key(0)
    source = jax.random.randint(key, (BATCH, SOURCE), 1, CLASSES)
    segments = jnp.ones_like(source)
    example = Pairs(source, segments, source, segments)
    params = jax.jit(partial(NETWORK.init, train=False))(key, example)
    with_cache, first = seconds(partial(jax.jit(cached), params, source, segments))
    without, second = seconds(partial(jax.jit(uncached), params, source, segments))
    np.testing.assert_array_equal(first.tokens, second.tokens)
    print(
        f"cached {1000 * with_cache:.0f} ms, uncached {1000 * without:.0f} ms: "
        f"{without / with_cache:.2f} times as fast"
    )


if __name__ == "__main__":
    main()
