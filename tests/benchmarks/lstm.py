"""Times a forward and backward pass of our LSTM and of PyTorch's on the CPU, alternately.

    .venv/bin/pip install torch==2.13.0
    .venv/bin/python -m tests.benchmarks.lstm

Two bidirectional layers of size 256, batch 32, 200 frames of 80 features, float32. All sequences
have full length, the fastest case for PyTorch.
"""

import os
import statistics
import time

import jax
import jax.numpy as jnp
import torch

from research.layers.recurrent import LSTM

BATCH, FRAMES, INPUTS, FEATURES, LAYERS, ROUNDS = 32, 200, 80, 256, 2, 30


def ours():
    """Returns a function that computes one step with our layers."""
    layers = [LSTM(FEATURES) for _ in range(LAYERS)]
    lengths = jnp.full(BATCH, FRAMES)
    x = jax.random.normal(jax.random.key(0), (BATCH, FRAMES, INPUTS))
    params, y = [], x
    for key, layer in enumerate(layers):
        (y, _), variables = layer.init_with_output(jax.random.key(key), y, lengths)
        params.append(variables)

    @jax.jit
    def step(params, x):
        def loss(params):
            y = x
            for layer, variables in zip(layers, params, strict=True):
                y, _ = layer.apply(variables, y, lengths)
            return y.sum()

        return jax.grad(loss)(params)

    return lambda: jax.block_until_ready(step(params, x))


def pytorch():
    """Returns a function that computes one step with PyTorch."""
    torch.set_num_threads(os.cpu_count())
    model = torch.nn.LSTM(INPUTS, FEATURES, LAYERS, bidirectional=True, batch_first=True)
    x = torch.randn(BATCH, FRAMES, INPUTS)

    def step():
        model.zero_grad()
        model(x)[0].sum().backward()

    return step


def main():
    """Prints both medians and their ratio."""
    implementations = {"JAX, this project": ours(), "PyTorch nn.LSTM": pytorch()}
    times = {name: [] for name in implementations}
    for _ in range(ROUNDS):
        for name, step in implementations.items():
            begin = time.perf_counter()
            step()
            times[name].append(time.perf_counter() - begin)
    medians = [
        statistics.median(part[3:]) for part in times.values()
    ]  # the first steps include compilation
    for name, median in zip(times, medians, strict=True):
        print(f"{name:20s} {1000 * median:7.1f} ms")
    print(f"ratio {medians[1] / medians[0]:.2f}")


if __name__ == "__main__":
    main()
