"""How much faster a Transformer writes because it keeps the keys and values of what it wrote.

python -m tests.benchmarks.decoding

Without the cache each step reads all that was written again. Both searches find the same outputs,
which is checked. Pairs 64, beam 5, sources of 24 tokens, 40 tokens at most.
"""

import time
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from research.tasks.sequence_to_sequence.beam_search import Hypotheses, beam_search
from research.tasks.sequence_to_sequence.models import Pairs
from research.tasks.sequence_to_sequence.transformer import Transformer

BATCH, BEAM, SOURCE, CAPACITY, CLASSES = 64, 5, 24, 40, 4000
ROUNDS = 5
NETWORK = Transformer(
    features=128, heads=4, feedforward=256, encoder_layers=4, decoder_layers=4
).clone(source_classes=CLASSES, target_classes=CLASSES)


def cached(params, source, segments) -> Hypotheses:
    """As `predict` does it."""
    memory, state, cache = NETWORK.apply(params, source, segments, BEAM, CAPACITY, method="begin")

    def step(*now):
        logits, state, cache = NETWORK.apply(params, memory, *now, method="step")
        return jax.nn.log_softmax(logits), state, cache

    return beam_search(step, state, cache, BATCH, BEAM, CAPACITY, 0.6)


def uncached(params, source, segments) -> Hypotheses:
    """Each step scores the whole of what was written, as training does."""
    repeated = [jnp.repeat(array, BEAM, axis=0) for array in (source, segments)]
    encoded = NETWORK.apply(params, *repeated, False, method="encode")

    def step(written, cache, tokens, lineage, position):
        written = written.at[:, :, position].set(tokens)
        rows = written.reshape(BATCH * BEAM, CAPACITY)
        present = jnp.broadcast_to(jnp.arange(CAPACITY) <= position, rows.shape).astype(jnp.int32)
        pair = Pairs(repeated[0], repeated[1], jnp.roll(rows, -1, axis=1), present)
        logits, _ = NETWORK.apply(params, encoded, pair, False, method="decode")
        now = logits[:, position].reshape(BATCH, BEAM, CLASSES)
        return jax.nn.log_softmax(now), written, cache

    state = jnp.zeros((BATCH, BEAM, CAPACITY), jnp.int32)
    return beam_search(step, state, (), BATCH, BEAM, CAPACITY, 0.6)


def seconds(search) -> tuple[float, Hypotheses]:
    """The median time of a search, and what it finds."""
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
